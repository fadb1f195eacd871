import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Settings } from '../config/env.js';

/** How often Node looks for connections that are over their time, at most. */
const CHECK_MS = 1000;
const KEEP_ALIVE_PROBE_MS = 60_000;

/** Ends connections whose client takes too long to send a request, or is gone without a word. See also `Inflight`. */
export function limitClients(server: Server, { headersTimeoutMs, bodyTimeoutMs }: Settings): void {
  server.headersTimeout = Math.min(headersTimeoutMs, bodyTimeoutMs);
  server.requestTimeout = bodyTimeoutMs;
  // An option of http.createServer, which Nest calls; Node reads it when the server begins to listen.
  (server as { connectionsCheckingInterval?: number }).connectionsCheckingInterval = CHECK_MS;
  server.on('connection', (socket: Socket) => socket.setKeepAlive(true, KEEP_ALIVE_PROBE_MS));
}
