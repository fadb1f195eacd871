import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Connections } from './connections.js';
import { openOn } from '../../request/on-close.js';

/** How long a connection may be idle, once the port is closed, before it is taken for one that sends nothing more. */
const LINGER_MS = 250;
const CLOSE_IDLE_MS = 20;

/**
 * Watches the requests of a server, and returns what ends it without losing one: the port is closed, what comes on open
 * connections is answered, each answer being the last one on its connection, and idle ones are closed.
 */
export function drainable(server: Server): () => Promise<void> {
  const connections = Connections.of(server);
  let closing = false;
  const sayLast = (response: ServerResponse) => {
    if (!response.headersSent) response.setHeader('Connection', 'close');
  };
  server.prependListener('request', (_request: IncomingMessage, response: ServerResponse) => {
    if (closing) sayLast(response);
  });
  return async () => {
    closing = true;
    for (const socket of connections.ready) openOn(socket).responses.forEach(sayLast);
    // Not http.Server's own close, which resets idle connections at once, and with them requests on their way. Nor its
    // callback: a worker's server has no port, so it would not wait for connections.
    net.Server.prototype.close.call(server);
    const lingered = performance.now() + LINGER_MS;
    while (connections.ready.size > 0 || connections.shaking.length > 0) {
      await delay(CLOSE_IDLE_MS);
      if (performance.now() < lingered) continue;
      for (const socket of connections.ready) if (openOn(socket).responses.length === 0) socket.destroy();
      for (const socket of connections.shaking) socket.destroy();
    }
  };
}
