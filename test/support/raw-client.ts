import { once } from 'node:events';
import net, { type Socket } from 'node:net';
import tls, { type ConnectionOptions } from 'node:tls';

/** A connection on which a test writes whatever it likes, also what is no HTTP. */
export class RawClient {
  private received = '';
  private constructor(readonly socket: Socket) {
    socket.setEncoding('latin1').on('data', (text: string) => (this.received += text));
    socket.on('error', () => undefined);
  }

  static async open(url: string): Promise<RawClient> {
    const { hostname, port } = new URL(url);
    const socket = net.connect({ host: hostname, port: Number(port), allowHalfOpen: true });
    await once(socket, 'connect');
    return new RawClient(socket);
  }

  /** @throws Error when the handshake fails */
  static async openTls(url: string, options: ConnectionOptions): Promise<RawClient> {
    const { hostname, port } = new URL(url);
    const socket = tls.connect({ host: hostname, port: Number(port), ...options });
    await once(socket, 'secureConnect');
    return new RawClient(socket);
  }

  /** Everything that has come. */
  get answer(): string {
    return this.received;
  }

  write(data: string | Buffer): this {
    this.socket.write(data);
    return this;
  }

  /** The head of a POST to an operation. */
  post(operation: string, ...headers: string[]): this {
    const lines = [`POST /checkpoints/${operation} HTTP/1.1`, 'Host: test', 'Content-Type: application/json'];
    return this.write([...lines, ...headers, '', ''].join('\r\n'));
  }

  /** Resolves with what came until the server closed the connection. */
  async closed(): Promise<string> {
    if (!this.socket.closed && !this.socket.readableEnded) {
      await new Promise<void>((resolve) => {
        this.socket.once('end', resolve).once('close', resolve);
      });
    }
    this.socket.destroy();
    return this.received;
  }

  /** Resolves with the status of the first answer, once it has come whole; of a connection that closes without one, 0. */
  async status(): Promise<number> {
    for (;;) {
      const [, status] = /^HTTP\/1\.1 (\d{3})/.exec(this.received) ?? [];
      if (status !== undefined) return Number(status);
      if (this.socket.closed || this.socket.readableEnded) return 0;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
