import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import tls from 'node:tls';
import type { Settings } from '../config/env.js';
import { onClose, openOn } from './on-close.js';

/** How often Node looks for connections that are over their time, at most. */
const CHECK_MS = 1000;
const KEEP_ALIVE_PROBE_MS = 60_000;
/** Of the connections, so many are closed at once when there are too many: looking for the longest idle ones takes its time. */
const CLOSED_AT_ONCE = 1 / 64;
/** Requests of a connection that may wait for their answers, before no more of it is read. */
const MAX_PIPELINED = 32;

/**
 * Ends connections whose client takes too long to send a request, or is gone without a word, and bounds how many there are,
 * and how much each may ask for at once. See also `Inflight`.
 *
 * @returns what counts the connections
 */
export function limitClients(server: Server, settings: Settings): () => number {
  const { headersTimeoutMs, bodyTimeoutMs, keepAliveTimeoutMs, maxConnections } = settings;
  server.headersTimeout = Math.min(headersTimeoutMs, bodyTimeoutMs);
  server.requestTimeout = bodyTimeoutMs;
  server.keepAliveTimeout = keepAliveTimeoutMs;
  // An option of http.createServer, which Nest calls; Node reads it when the server begins to listen.
  (server as { connectionsCheckingInterval?: number }).connectionsCheckingInterval = CHECK_MS;
  server.on('connection', (socket: Socket) => socket.setKeepAlive(true, KEEP_ALIVE_PROBE_MS));
  server.prependListener('request', limitPipeline);
  return limitConnections(server, maxConnections);
}

/** Over the limit the connections that have been idle for longest make room; when none is idle a new one is refused. */
function limitConnections(server: Server, max: number): () => number {
  const all = new Set<Socket>();
  /** With TLS, those whose handshake is done. */
  const ready = server instanceof tls.Server ? new Set<Socket>() : all;
  const keep = (sockets: Set<Socket>, socket: Socket) => {
    sockets.add(socket);
    openOn(socket); // it is idle from now on
    socket.once('close', () => sockets.delete(socket));
  };
  server.prependListener('connection', (socket: Socket) => {
    if (all.size >= max && closeIdle(ready, Math.ceil(max * CLOSED_AT_ONCE)) === 0) socket.destroy();
    else keep(all, socket);
  });
  if (ready !== all) {
    server.prependListener('secureConnection', (socket: Socket) => {
      keep(ready, socket);
    });
  }
  return () => all.size;
}

/** Returns how many there were. */
function closeIdle(sockets: Set<Socket>, count: number): number {
  const idle: { socket: Socket; since: number }[] = [];
  for (const socket of sockets) {
    const { responses, idleSince } = openOn(socket);
    if (responses.length === 0 && !socket.destroyed) idle.push({ socket, since: idleSince });
  }
  const longest = idle.sort((a, b) => a.since - b.since).slice(0, count);
  for (const { socket } of longest) socket.destroy();
  return longest.length;
}

/** What Node keeps of a connection of which it reads no more; it does so itself when answers are not taken. */
type Paused = Socket & { _paused?: boolean; parser?: { resume: () => void } | null };

function limitPipeline({ socket }: IncomingMessage, response: ServerResponse): void {
  const open = openOn(socket);
  onClose(response, () => undefined);
  if (open.responses.length < MAX_PIPELINED) return;
  const paused: Paused = socket;
  paused._paused = true;
  socket.pause();
  open.onLess ??= () => {
    if (open.responses.length >= MAX_PIPELINED || socket.destroyed) return;
    open.onLess = null;
    paused._paused = false;
    paused.parser?.resume();
    socket.resume();
  };
}
