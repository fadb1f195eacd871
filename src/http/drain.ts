import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import net, { type Socket } from 'node:net';
import tls from 'node:tls';
import { setTimeout as delay } from 'node:timers/promises';
import { onClose } from './on-close.js';

/** How long a connection may be idle, once the port is closed, before it is taken for one that sends nothing more. */
const LINGER_MS = 250;
const CLOSE_IDLE_MS = 20;

/**
 * Watches the requests of a server, and returns what ends it without losing one: the port is closed, what comes on open
 * connections is answered, each answer being the last one on its connection, and idle ones are closed.
 */
export function drainable(server: Server): () => Promise<void> {
  /** Arrays, as a Set that lives long leaves its former selves in the old space, with what they held. */
  const open = new Map<Socket, ServerResponse[]>();
  /** With TLS, connections whose handshake is not done, by their other end. */
  const shaking = new Map<string, Socket>();
  let closing = false;
  const sayLast = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('Connection', 'close');
  };
  const opened = (socket: Socket) => {
    open.set(socket, []);
    socket.once('close', () => open.delete(socket));
  };
  if (server instanceof tls.Server) {
    server.on('connection', (socket: Socket) => {
      const peer = peerOf(socket);
      shaking.set(peer, socket);
      socket.once('close', () => shaking.get(peer) === socket && shaking.delete(peer));
    });
    server.on('secureConnection', (socket: Socket) => {
      shaking.delete(peerOf(socket));
      opened(socket);
    });
  } else server.on('connection', opened);
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const responses = open.get(request.socket);
    if (responses !== undefined) {
      responses.push(response);
      onClose(response, () => responses.splice(responses.indexOf(response), 1));
    }
    if (closing) sayLast(response);
  });
  return async () => {
    closing = true;
    for (const responses of open.values()) responses.forEach(sayLast);
    // Not http.Server's own close, which resets idle connections at once, and with them requests on their way. Nor its
    // callback: a worker's server has no port, so it would not wait for connections.
    net.Server.prototype.close.call(server);
    const lingered = performance.now() + LINGER_MS;
    while (open.size > 0 || shaking.size > 0) {
      await delay(CLOSE_IDLE_MS);
      if (performance.now() < lingered) continue;
      for (const [socket, responses] of open) if (responses.length === 0) socket.destroy();
      for (const socket of shaking.values()) socket.destroy();
    }
  };
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
