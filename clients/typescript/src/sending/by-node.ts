import type { Agent, IncomingMessage, RequestOptions } from 'node:http';
import { nodeModules } from '../node-modules.js';
import { textOf } from './body.js';
import { ACCEPTED, IDLE_MS } from './by-socket.js';
import type { Incoming, Outgoing, Send } from './send.js';

type Protocol = 'node:http' | 'node:https';

/** One pool of connections for all savers of a process, as `fetch` has: a saver that is dropped leaves no connections behind. */
const agents = new Map<Protocol, Agent>();

/**
 * Sends by Node's own HTTP, below the base, which ends with a slash: what tracers and mocks know. Undefined in other runtimes, and
 * before Node 20.16.
 */
export function byNode(base: string): Send | undefined {
  const builtIn = nodeModules();
  if (builtIn === undefined) return undefined;
  const url = new URL(base);
  const protocol = `node:${url.protocol.slice(0, -1)}` as Protocol;
  // Both modules have the same shape. Its `request` is looked up for each request, since instrumentation replaces it.
  const http = builtIn(protocol) as typeof import('node:http');
  let agent = agents.get(protocol);
  if (agent === undefined) {
    // It obeys a shorter `Keep-Alive` of a proxy only when it has a time of its own.
    agent = new http.Agent({ keepAlive: true, timeout: IDLE_MS });
    agents.set(protocol, agent);
  }
  const { hostname, port, pathname } = url;
  const target = { agent, method: 'POST', hostname: hostname.replace(/^\[(.*)\]$/, '$1'), port };

  return async ({ operation, headers, body, ending, isFresh }: Outgoing): Promise<Incoming> => {
    const options = { ...target, path: pathname + operation, headers: { ...ACCEPTED, ...headers } };
    const { answer, bytes } = await exchange(isFresh ? { ...options, agent: false } : options, body, ending);
    return {
      status: answer.statusCode ?? 0,
      statusText: answer.statusMessage ?? '',
      headers: {
        get: (name) => {
          const value = answer.headers[name];
          return Array.isArray(value) ? value.join(', ') : (value ?? null);
        },
      },
      text: await textOf(builtIn, bytes, answer.headers['content-encoding']),
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
}
