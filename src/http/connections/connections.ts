import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import tls from 'node:tls';
import { onClose, openOn } from '../../request/on-close.js';

/** The connections of a server, from the first call of `of` on. */
export class Connections {
  private static readonly known = new WeakMap<Server, Connections>();

  /** As the system has them. */
  readonly all = new Set<Socket>();
  /** Those over which requests come: with TLS, other sockets, whose handshake is done. */
  readonly ready: Set<Socket>;
  /** Asked about each new one, which is closed when it may not be. */
  mayOpen: () => boolean = () => true;
  /** With TLS, those whose handshake is not done, by their other end. */
  private readonly byPeer = new Map<string, Socket>();

  private constructor(server: Server) {
    const hasHandshakes = server instanceof tls.Server;
    this.ready = hasHandshakes ? new Set() : this.all;
    server.prependListener('connection', (socket: Socket) => {
      if (!this.mayOpen()) {
        socket.destroy();
        return;
      }
      keep(this.all, socket);
      if (!hasHandshakes) return;
      const peer = peerOf(socket);
      this.byPeer.set(peer, socket);
      socket.once('close', () => this.byPeer.get(peer) === socket && this.byPeer.delete(peer));
    });
    // From its arrival on a response is open on its connection, whoever else asks for its end.
    server.prependListener('request', (_request, response) => {
      onClose(response, () => undefined);
    });
    if (!hasHandshakes) return;
    server.prependListener('secureConnection', (socket: Socket) => {
      this.byPeer.delete(peerOf(socket));
      keep(this.ready, socket);
    });
  }

  static of(server: Server): Connections {
    let connections = Connections.known.get(server);
    if (connections === undefined) {
      connections = new Connections(server);
      Connections.known.set(server, connections);
    }
    return connections;
  }

  /** Those whose handshake is not done. */
  get shaking(): Socket[] {
    return [...this.byPeer.values()];
  }
}

function keep(sockets: Set<Socket>, socket: Socket): void {
  sockets.add(socket);
  openOn(socket); // it is idle from now on
  socket.once('close', () => sockets.delete(socket));
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
