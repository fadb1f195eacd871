import type { Socket } from 'node:net';
import { nodeModules } from '../node-modules.js';
import { textOf } from './body.js';
import { AnswerReader } from './http1.js';
import type { Incoming, Outgoing, Send } from './send.js';

/** As `fetch` of Node sends by itself. */
export const ACCEPTED = { 'accept-encoding': 'gzip, deflate', 'user-agent': 'langgraph-checkpoint-http' };

/** How long a connection may be idle: less than the 620 s of the service, which would close it under a request. */
export const IDLE_MS = 600_000;
/** A proxy that announces when it closes idle connections may do so this much earlier, as seen from here. */
const KEEP_ALIVE_MARGIN_MS = 1000;
/** Node writes a shorter text without a buffer of its own. */
const SHORT_BYTES = 16_384;
/** As many as an agent of Node keeps. */
const MAX_IDLE = 256;

/** What says where a request ends is said here alone. */
const FRAMING = new Set(['content-length', 'transfer-encoding', 'trailer', 'te', 'upgrade', 'expect']);

/** Pools by origin: all savers of a process share their connections, as by `fetch`. */
const pools = new Map<string, Pool>();

/**
 * Sends over connections of its own, below the base, which ends with a slash. Undefined in other runtimes, and before Node 20.16.
 *
 * A request of 1 KB costs 36 to 47 µs of CPU this way, 45 to 64 by `Pool.dispatch` of undici 7.30, 67 to 80 by its `Pool.request`, and
 * 70 to 113 by `node:http` (Node 20.20, 16 requests at once, three rounds on a busy machine). A pool of undici cannot be asked for
 * a fresh connection, and importing it would keep bundles for browsers and edge runtimes from loading.
 */
export function bySocket(base: string): Send | undefined {
  const builtIn = nodeModules();
  if (builtIn === undefined) return undefined;
  const { origin, host, pathname } = new URL(base);
  const begin = (operation: string) => `POST ${pathname}${operation} HTTP/1.1\r\n`;
  const { maxHeaderSize } = builtIn('node:http');

  return async ({ operation, headers, body, ending, isFresh }: Outgoing): Promise<Incoming> => {
    let head = begin(operation);
    const all: Record<string, string> = { host, connection: 'keep-alive', ...ACCEPTED, ...headers };
    for (const name in all) if (!FRAMING.has(name)) head += `${name}: ${all[name]}\r\n`;
    let pool = pools.get(origin);
    if (pool === undefined) {
      pool = new Pool(opener(builtIn, new URL(base)));
      pools.set(origin, pool);
    }
    const reader = new AnswerReader(maxHeaderSize);
    const isLast = /\bclose\b/i.test(all.connection ?? '');
    const answer = await pool.connection(isFresh).exchange({ head, body, isLast, ending }, reader);
    return {
      status: answer.status,
      statusText: answer.statusText,
      headers: { get: (name) => answer.headers.get(name) ?? null },
      text: await textOf(builtIn, answer.body, answer.headers.get('content-encoding')),
    };
  };
}

/** Opens connections as an agent of Node does. `connect` is looked up each time, since instrumentation replaces it. */
function opener(builtIn: typeof process.getBuiltinModule, url: URL): () => Socket {
  const net = builtIn('node:net');
  const isTls = url.protocol === 'https:';
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = Number(url.port) || (isTls ? 443 : 80);
  const target = { host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 1000 };
  if (!isTls) return () => net.connect(target);
  const tls = builtIn('node:tls');
  const servername = net.isIP(host) === 0 ? host : '';
  return () => tls.connect({ ...target, servername, ALPNProtocols: ['http/1.1'] });
}

class Pool {
  private readonly open: () => Socket;
  private readonly idle: Connection[] = [];

  constructor(open: () => Socket) {
    this.open = open;
  }

  /** The one that was used last, or a new one. */
  connection(isFresh: boolean): Connection {
    while (!isFresh) {
      const kept = this.idle.pop();
      if (kept === undefined) break;
      if (kept.isUsable) return kept;
      kept.close();
    }
    return new Connection(this, this.open());
  }

  keep(connection: Connection): boolean {
    return this.idle.length < MAX_IDLE && this.idle.push(connection) > 0;
  }

  forget(connection: Connection): void {
    const at = this.idle.indexOf(connection);
    if (at >= 0) this.idle.splice(at, 1);
  }
}

interface Request extends Pick<Outgoing, 'body' | 'ending'> {
  /** Request line and headers, each with its end. */
  head: string;
  /** It asks for the connection to be closed behind the answer. */
  isLast: boolean;
}

/** What waits for the answer of a connection. */
interface Exchange {
  reader: AnswerReader;
  isLast: boolean;
  resolve: (reader: AnswerReader) => void;
  reject: (error: unknown) => void;
}

/** One connection, with one request at a time. */
class Connection {
  private readonly pool: Pool;
  private readonly socket: Socket;
  private exchanging: Exchange | undefined;
  private error: unknown;
  private idleTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(pool: Pool, socket: Socket) {
    this.pool = pool;
    this.socket = socket;
    socket.on('data', (data: Buffer) => {
      this.read(data);
    });
    socket.on('end', () => {
      this.end();
    });
    socket.on('error', (error) => {
      this.error ??= error;
    });
    socket.on('close', () => {
      this.closed();
    });
  }

  get isUsable(): boolean {
    return this.socket.writable && !this.socket.readableEnded;
  }

  close(): void {
    this.socket.destroy();
  }

  async exchange({ head, body, isLast, ending }: Request, reader: AnswerReader): Promise<AnswerReader> {
    clearTimeout(this.idleTimer);
    this.socket.ref();
    const forget = ending.onEnd(() => {
      this.close();
    });
    try {
      return await new Promise((resolve, reject) => {
        this.exchanging = { reader, isLast, resolve, reject };
        this.write(head, body);
      });
    } finally {
      forget();
    }
  }

  private write(head: string, body: Outgoing['body']): void {
    const { socket } = this;
    const length = Buffer.byteLength(body);
    const start = `${head}content-length: ${length}\r\n\r\n`;
    const isAscii = length === body.length && typeof body === 'string';
    // A head is Latin 1, so a text goes with it only when it is ASCII. To put together long texts would copy them once more.
    if (isAscii && length < SHORT_BYTES) socket.write(start + body, 'latin1');
    else {
      socket.cork();
      socket.write(start, 'latin1');
      socket.write(body, isAscii ? 'latin1' : 'utf8');
      socket.uncork();
    }
  }

  private read(data: Buffer): void {
    const { exchanging } = this;
    // Nobody has asked.
    if (exchanging === undefined) {
      this.close();
      return;
    }
    try {
      if (exchanging.reader.feed(data)) this.finish(exchanging);
    } catch (error) {
      this.error = error;
      this.close();
    }
  }

  private finish({ reader, isLast, resolve }: Exchange): void {
    this.exchanging = undefined;
    if (isLast || !this.isKept(reader)) this.close();
    resolve(reader);
  }

  private isKept({ isReusable, headers }: AnswerReader): boolean {
    const { socket } = this;
    // An answer may come before the request is sent as a whole.
    if (!isReusable || !this.isUsable || socket.writableLength > 0) return false;
    const announced = /(?:^|[,\s])timeout=(\d+)/i.exec(headers.get('keep-alive') ?? '')?.[1];
    const idleMs = announced === undefined ? IDLE_MS : Number(announced) * 1000 - KEEP_ALIVE_MARGIN_MS;
    if (idleMs <= 0 || !this.pool.keep(this)) return false;
    this.idleTimer = setTimeout(
      () => {
        this.close();
      },
      Math.min(idleMs, IDLE_MS),
    ).unref();
    // No process waits for an idle connection.
    socket.unref();
    return true;
  }

  private end(): void {
    const { exchanging } = this;
    if (exchanging?.reader.end() === true) this.finish(exchanging);
    else this.close();
  }

  private closed(): void {
    clearTimeout(this.idleTimer);
    this.pool.forget(this);
    const { exchanging } = this;
    this.exchanging = undefined;
    exchanging?.reject(this.error ?? Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' }));
  }
}
