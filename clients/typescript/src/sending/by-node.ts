import type { Agent, IncomingMessage, RequestOptions } from 'node:http';
import { nodeModules } from '../node-modules.js';
import { AnswerTooLargeError, type Incoming, type Outgoing, type Send } from './send.js';

/** As `fetch` of Node sends by itself. */
const ACCEPTED = { 'accept-encoding': 'gzip, deflate', 'user-agent': 'langgraph-checkpoint-http' };

/**
 * How long a connection may be idle: less than the 620 s of the service, which would close it under a request. An agent obeys a
 * shorter `Keep-Alive` of a proxy only when it has a time of its own.
 */
const IDLE_MS = 600_000;

type Protocol = 'node:http' | 'node:https';

/** One pool of connections for all savers of a process, as `fetch` has: a saver that is dropped leaves no connections behind. */
const agents = new Map<Protocol, Agent>();

/**
 * Sends by Node's own HTTP, below the base, which ends with a slash. A request costs a third of the CPU that one by Node's
 * `fetch` costs. Undefined in other runtimes, and before Node 20.16.
 */
export function byNode(base: string): Send | undefined {
  const builtIn = nodeModules();
  if (builtIn === undefined) return undefined;
  const url = new URL(base);
  const protocol = `node:${url.protocol.slice(0, -1)}` as Protocol;
  // Both modules have the same shape. Its `request` is looked up for each request, since instrumentation replaces it.
  const http = builtIn(protocol) as typeof import('node:http');
  const zlib = builtIn('node:zlib');
  const { constants } = builtIn('node:buffer');
  let agent = agents.get(protocol);
  if (agent === undefined) {
    agent = new http.Agent({ keepAlive: true, timeout: IDLE_MS });
    agents.set(protocol, agent);
  }
  const { hostname, port, pathname } = url;
  const target = { agent, method: 'POST', hostname: hostname.replace(/^\[(.*)\]$/, '$1'), port };

  return async ({ operation, headers, body, ending }: Outgoing): Promise<Incoming> => {
    const { answer, bytes } = await exchange(
      { ...target, path: pathname + operation, headers: { ...ACCEPTED, ...headers } },
      body,
      ending,
    );
    const plain = await decompressed(bytes, answer.headers['content-encoding']);
    if (plain.length > constants.MAX_STRING_LENGTH) throw new AnswerTooLargeError();
    return {
      status: answer.statusCode ?? 0,
      statusText: answer.statusMessage ?? '',
      headers: {
        get: (name) => {
          const value = answer.headers[name];
          return Array.isArray(value) ? value.join(', ') : (value ?? null);
        },
      },
      text: plain.toString(),
    };
  };

  function exchange(
    options: RequestOptions,
    body: Outgoing['body'],
    ending: Outgoing['ending'],
  ): Promise<{ answer: IncomingMessage; bytes: Buffer }> {
    return new Promise((resolve, reject) => {
      const request = http.request(options, (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('end', () => {
          resolve({ answer, bytes: Buffer.concat(chunks) });
        });
        answer.on('error', reject);
      });
      request.on('error', reject);
      request.on('upgrade', (_answer, socket) => {
        socket.destroy();
        reject(new Error('it answers 101 Switching Protocols, which nobody asked for'));
      });
      ending.onEnd(() => {
        request.destroy();
      });
      // A text would take the headers with it into UTF-8; they are Latin 1.
      request.end(typeof body === 'string' ? Buffer.from(body) : body);
    });
  }

  function decompressed(bytes: Buffer, encoding: string | undefined): Promise<Buffer> | Buffer {
    if (encoding === undefined || encoding === 'identity' || bytes.length === 0) return bytes;
    return new Promise((resolve, reject) => {
      zlib.unzip(bytes, (error, plain) => {
        if (error === null) resolve(plain);
        else reject(error);
      });
    });
  }
}
