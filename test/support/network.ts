import net from 'node:net';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

interface Link {
  near: net.Socket;
  far: net.Socket;
  /** From now on it loses every byte, and nobody is told. */
  isDead: boolean;
}

/** The way to the database: a TCP proxy that can do what networks do. */
export class Network {
  /** Where it leads. */
  target: number;
  /** New connections: taken, reset, or taken and never answered. */
  mode: 'open' | 'resetting' | 'silent' = 'open';
  /** How long a byte travels each way. */
  delayMs = 0;
  private readonly links = new Set<Link>();

  private constructor(
    private readonly server: net.Server,
    target: number,
    private readonly host: string,
  ) {
    this.target = target;
    server.on('connection', (near: net.Socket) => {
      this.join(near);
    });
  }

  static async open(target: number, host = '127.0.0.1'): Promise<Network> {
    const server = net.createServer({ noDelay: true }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Network(server, target, host);
  }

  get port(): number {
    return (this.server.address() as net.AddressInfo).port;
  }

  private join(near: net.Socket): void {
    near.on('error', () => undefined);
    if (this.mode === 'resetting') {
      near.resetAndDestroy();
      return;
    }
    const far = net.connect({ port: this.target, host: this.host, noDelay: true });
    far.on('error', () => undefined);
    const link = { near, far, isDead: this.mode === 'silent' };
    this.links.add(link);
    this.carry(link, near, far);
    this.carry(link, far, near);
  }

  private carry(link: Link, from: net.Socket, to: net.Socket): void {
    from.on('data', (bytes) => {
      if (link.isDead) return;
      if (this.delayMs === 0) to.write(bytes);
      else void delay(this.delayMs).then(() => link.isDead || to.write(bytes));
    });
    from.on('close', () => {
      // Of a dead link, the other end does not hear that this one has gone.
      if (!link.isDead) to.destroy();
      if (link.near.destroyed && link.far.destroyed) this.links.delete(link);
    });
  }

  /** All connections lose what is sent from now on, and stay open. */
  loseConnections(): void {
    for (const link of this.links) link.isDead = true;
  }

  /** How many callers have a connection that loses everything. */
  get silent(): number {
    return [...this.links].filter(({ near, isDead }) => isDead && !near.destroyed).length;
  }

  /** Resets all connections. */
  reset(): void {
    for (const { near, far } of this.links) {
      near.resetAndDestroy();
      far.destroy();
    }
  }

  /** Resets the caller's ends; of connections that were lost before, the server hears nothing. */
  dropNearEnds(): void {
    for (const { near } of this.links) near.resetAndDestroy();
  }

  close(): void {
    this.server.close();
    for (const { near, far } of this.links) for (const socket of [near, far]) socket.destroy();
  }
}
