import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';
import type { Settings } from '../../config/env.js';
import { SMALL_BODY_BYTES } from '../../request/body-memory.js';
import { Connections } from './connections.js';
import { openOn } from '../../request/on-close.js';
import { isTooSlow, PaceClock } from '../../request/pace.js';

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
  return limitConnections(server, maxConnections, settings);
}

/**
 * Over the limit the connections that have been idle for longest make room; when none is idle a new one is refused. Who does
 * not take an answer, whatever it is of, is cut off: a connection is busy that long, and nobody needs a key to make it so.
 */
function limitConnections(server: Server, max: number, settings: Settings): () => number {
  const connections = Connections.of(server);
  const { all, ready } = connections;
  connections.mayOpen = () =>
    all.size < max || closeIdle([...ready, ...connections.shaking], Math.ceil(max * CLOSED_AT_ONCE)) > 0;
  const clock = new PaceClock(CHECK_MS);
  const timer = setInterval(() => {
    const now = clock.at(performance.now());
    for (const socket of ready) pace(socket, settings, all.size >= max, now);
  }, CHECK_MS).unref();
  server.once('close', () => {
    clearInterval(timer);
  });
  return () => all.size;
}

/**
 * Ends a connection that takes too little of what is written to it or, while all connections are taken, sends too little of
 * a body that is being read. See `Inflight`, which knows how large they are.
 */
function pace(socket: Socket, settings: Settings, isPressed: boolean, now: number): void {
  const open = openOn(socket);
  const { writableLength } = socket;
  const isReading = isPressed && isBeingRead(open.responses.at(-1)?.req);
  if (writableLength === 0 && !isReading) {
    open.paceAt = 0;
    return;
  }
  const rate = isPressed || writableLength > SMALL_BODY_BYTES ? settings.minBytesPerSecond : null;
  const moved = socket.bytesRead + socket.bytesWritten - writableLength;
  if (isTooSlow(open, moved, settings, { rate, isPressed, now })) socket.destroy();
}

/** Whether it is the client that takes its time with the body: one that waits for memory does not flow. */
function isBeingRead(request: IncomingMessage | undefined): boolean {
  return request?.complete === false && request.readableFlowing === true;
}

/** Returns how many there were. */
function closeIdle(sockets: Socket[], count: number): number {
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

function limitPipeline({ socket }: IncomingMessage): void {
  const open = openOn(socket);
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
