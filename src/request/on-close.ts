import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Pace } from './pace.js';

const LISTENERS = Symbol('listeners');
type Watched = ServerResponse & { [LISTENERS]?: (() => void)[] | null };

const OPEN = Symbol('open');
type Connection = Socket & { [OPEN]?: Open };

/** The responses of a connection that are not closed yet. An array: a long-lived Set leaves its former tables in the old space. */
interface Open extends Pace {
  responses: ServerResponse[];
  /** Since when there are none, as `performance.now()` has it. */
  idleSince: number;
  /** Called after each response. */
  onLess: (() => void) | null;
}

/**
 * Calls when the answer has left or its connection is gone; at once when that was before. Node itself tells only the response
 * whose turn it is that the connection is gone, not those that wait behind it. All listeners share one of Node's, which takes
 * 1 µs for each.
 */
export function onClose(response: ServerResponse, listener: () => void): void {
  const watched: Watched = response;
  const listeners = watched[LISTENERS];
  if (listeners === null) listener();
  else if (listeners !== undefined) listeners.push(listener);
  else {
    watched[LISTENERS] = [listener];
    response.on('close', closed);
    openOn(response.req.socket).responses.push(response);
  }
}

/** What is open on a connection, from its first request on. */
export function openOn(socket: Socket): Open {
  const connection: Connection = socket;
  let open = connection[OPEN];
  if (open === undefined) {
    open = connection[OPEN] = {
      responses: [],
      idleSince: performance.now(),
      onLess: null,
      paceBytes: 0,
      paceAt: 0,
    };
    socket.once('close', allClosed);
  }
  return open;
}

function closed(this: ServerResponse): void {
  settle(this);
}

function allClosed(this: Connection): void {
  for (const response of [...(this[OPEN]?.responses ?? [])]) settle(response);
}

function settle(response: Watched): void {
  const listeners = response[LISTENERS];
  if (listeners === null) return;
  response[LISTENERS] = null;
  const open = openOn(response.req.socket);
  const at = open.responses.indexOf(response);
  if (at !== -1) open.responses.splice(at, 1);
  if (open.responses.length === 0) open.idleSince = performance.now();
  for (const listener of listeners ?? []) listener();
  open.onLess?.();
}
