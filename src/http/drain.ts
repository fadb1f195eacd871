import { once } from 'node:events';
import type { Server, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

const CLOSE_IDLE_MS = 20;

/**
 * Watches the requests of a server, and returns what ends it without losing one: for `delayMs` requests are still taken,
 * each the last one on its connection, so that clients and load balancers move away before the port closes; then what is
 * left is answered.
 */
export function drainable(server: Server): (delayMs: number) => Promise<void> {
  const open = new Set<ServerResponse>();
  let draining = false;
  const sayLast = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('Connection', 'close');
  };
  server.prependListener('request', (_request, response) => {
    open.add(response);
    response.once('close', () => open.delete(response));
    if (draining) sayLast(response);
  });
  return async (delayMs) => {
    draining = true;
    open.forEach(sayLast);
    await delay(delayMs);
    // An answer that had begun before keeps its connection open, idle from then on.
    const closing = setInterval(() => {
      server.closeIdleConnections();
    }, CLOSE_IDLE_MS);
    server.close();
    await once(server, 'close');
    clearInterval(closing);
  };
}
