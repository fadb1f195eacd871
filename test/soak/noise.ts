import http from 'node:http';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import zlib from 'node:zlib';
import type { Caller } from './caller.js';
import { contentOf } from './content.js';

const KIB = 1024;
const MIB = 1024 * KIB;
const LIMIT_MS = 20_000;

/** Invalid, broken and abandoned requests of a tenant. None may be acknowledged, and none may do anything to another one. */
export class Noise {
  /** A thread of which nothing is ever stored. */
  readonly thread: string;

  constructor(
    name: string,
    private readonly caller: Caller,
    /** A thread with a large answer. */
    private readonly large: string,
    /** What a tenant may have of an instance's memory, in bytes. */
    private readonly share: number,
    private readonly isOver: () => boolean,
  ) {
    this.thread = `${name}-never`;
  }

  async live(): Promise<void> {
    const kinds = [
      () => this.broken(),
      () => this.broken(),
      () => this.waiting(),
      () => this.waiting(),
      () => this.crowd(),
      () => this.abandoned(),
      () => this.unread(),
      () => this.invalid(),
      () => this.tooLarge(),
    ];
    while (!this.isOver()) {
      await this.caller.chance.of(kinds)();
      await delay(this.caller.chance.between(0, 300));
    }
  }

  /** A put that would be valid. */
  private put(bytes: number): string {
    const blob = contentOf(`${this.caller.tenant.name}/${this.thread}/noise`, bytes).toString('base64');
    return JSON.stringify({
      ...{ thread_id: this.thread, checkpoint_id: '1', checkpoint: { v: 4, channel_versions: { m: '1' } } },
      blobs: [{ channel: 'm', version: '1', type: 'bytes', blob }],
    });
  }

  /** A compressed body that breaks somewhere, for instance soon after it has outgrown a buffer. */
  private brokenBody(): Buffer {
    const { chance } = this.caller;
    const plain = Buffer.from(this.put(4 * MIB));
    const packed = zlib.gzipSync(plain, { level: chance.of([0, 0, 1]) });
    const grown = chance.of([256, 512, 1024, 2048]) * KIB + chance.between(0, 64 * KIB);
    const cut = chance.of([grown, grown, chance.between(100, packed.length), packed.length - 5]);
    const garbage = chance.is(0.8) ? Buffer.alloc(40_000, 0xff) : Buffer.alloc(0);
    return Buffer.concat([packed.subarray(0, Math.min(cut, packed.length - 5)), garbage]);
  }

  private async broken(): Promise<void> {
    await this.send('put', this.brokenBody(), 'a broken gzip body', 'gzip');
  }

  /** The same, while others that were announced and do not come take the room that it waits for, all but a little. */
  private async waiting(): Promise<void> {
    const { chance } = this.caller;
    const free = chance.between(500 * KIB, 2 * MIB);
    const announced = [await this.announce(this.share / 2), await this.announce(this.share / 2 - free)];
    await delay(chance.between(10, 60));
    const sent = Promise.all(Array.from({ length: chance.between(1, 3) }, () => this.broken()));
    await delay(chance.between(50, 1000));
    for (const socket of announced) socket.destroy();
    await sent;
  }

  /** Several large bodies that arrive at once, all of them in vain. */
  private async crowd(): Promise<void> {
    const { chance } = this.caller;
    const body = () => Buffer.from(`${this.put(chance.between(3, 8) * MIB)}x`);
    await Promise.all(
      Array.from({ length: 3 }, () => this.send('put', body(), 'a text after a large document')),
    );
  }

  /** A request whose body is announced and does not come. */
  private announce(bytes: number): Promise<net.Socket> {
    const { port } = new URL(this.caller.url);
    return new Promise((resolve) => {
      const socket = net.connect(Number(port), '127.0.0.1', () => {
        socket.write(
          `POST /checkpoints/put HTTP/1.1\r\nhost: soak\r\nx-agent-api-key: ${this.caller.tenant.key}\r\n` +
            `content-type: application/json\r\ncontent-length: ${bytes}\r\n\r\n{`,
        );
        resolve(socket);
      });
      socket.on('error', () => undefined);
      socket.resume();
    });
  }

  /** An upload of a valid body that ends somewhere. */
  private async abandoned(): Promise<void> {
    const { chance } = this.caller;
    const body = this.put(chance.of([20 * KIB, 400 * KIB, 3 * MIB]));
    const socket = await this.announce(body.length);
    socket.write(body.slice(1, chance.between(2, body.length - 2)));
    await delay(chance.between(0, 300));
    if (chance.is(0.5)) socket.resetAndDestroy();
    else socket.destroy();
  }

  /** A large answer whose reader goes away. */
  private async unread(): Promise<void> {
    const { chance } = this.caller;
    const body = JSON.stringify({ thread_id: this.large });
    const { port } = new URL(this.caller.url);
    const socket = net.connect(Number(port), '127.0.0.1', () => {
      socket.write(
        `POST /checkpoints/get-tuple HTTP/1.1\r\nhost: soak\r\nx-agent-api-key: ${this.caller.tenant.key}\r\n` +
          `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      );
    });
    socket.on('error', () => undefined);
    if (chance.is(0.5)) socket.once('data', () => socket.destroy());
    await delay(chance.between(20, 800));
    socket.destroy();
  }

  private async invalid(): Promise<void> {
    const { chance } = this.caller;
    const valid = this.put(chance.of([100, 20 * KIB, MIB]));
    const [what, body] = chance.of([
      ['a body that is cut', valid.slice(0, -chance.between(1, 40))],
      ['Base64 with a strange character', valid.replace('"blob":"', '"blob":"!')],
      ['a text after the document', `${valid}x`],
      ['no checkpoint', valid.replace('"checkpoint":', '"nothing":')],
      ['a number for a blob', valid.replace(/"blob":"[^"]*"/, '"blob":5')],
    ] as const);
    await this.send('put', Buffer.from(body), what);
  }

  /** More than a body may have, compressed to little. */
  private async tooLarge(): Promise<void> {
    const body = zlib.gzipSync(Buffer.alloc(this.caller.chance.between(70, 90) * MIB, ' '), { level: 1 });
    await this.send('put', body, 'a body over the limit', 'gzip');
  }

  /** An invalid request: 4xx, or 503 where there is no room. */
  private send(operation: string, body: Buffer, what: string, encoding?: string): Promise<void> {
    const { caller } = this;
    return new Promise((resolve) => {
      const request = http.request(`${caller.url}/checkpoints/${operation}`, {
        method: 'POST',
        agent: false,
        timeout: LIMIT_MS,
        headers: {
          'content-type': 'application/json',
          'content-length': body.length,
          'x-agent-api-key': caller.tenant.key,
          ...(encoding !== undefined && { 'content-encoding': encoding }),
        },
      });
      request.on('timeout', () => request.destroy());
      request.on('error', () => undefined); // refused before all of it was read
      request.on('close', resolve);
      request.on('response', (response) => {
        const { statusCode: status = 0 } = response;
        caller.findings.answered(`(${what})`, status);
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('error', () => undefined);
        response.on('end', () => {
          const text = Buffer.concat(parts).toString('latin1');
          caller.own(`the refusal of ${what}`, text);
          if (status < 400) caller.findings.fault('misjudged', `${what} got ${status}`);
          else if (status >= 500 && status !== 503)
            caller.findings.fault('broken', `${what} got ${status} ${text}`);
        });
      });
      request.end(body);
    });
  }
}
