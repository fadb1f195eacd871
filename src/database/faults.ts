import { QueryFailedError } from 'typeorm';

/** pg's error: with a SQLSTATE, a code of the socket, or none. `routine` is the function of Postgres that raised it. */
export type Fault = Error & { code?: string; routine?: string };

/** Ours: what a lost connection left running has not ended yet. */
export const STILL_THERE = 'EBUSY';
/** SQLSTATEs and socket errors after which the same statement may succeed on another connection or a little later. */
const PASSING = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN'],
  ...['EHOSTUNREACH', 'EHOSTDOWN', 'ENETUNREACH', 'ENETDOWN', 'EADDRNOTAVAIL', 'EMFILE', 'ENFILE'],
  ...['57P01', '57P02', '57P03', '57P05'], // shut down by the administrator, crashed, starting up, idle for too long
  ...['25006', '25P03'], // read-only: an old primary, or a standby that is about to be promoted; idle in transaction
  ...['40001', '40P01'], // serialisation failure, deadlock: with other clients
  STILL_THERE,
  ...['26000', '42P05'], // a prepared statement that is gone, or was there: see `isForgotten`
  ...['53000', '53100', '53300', '53400'], // insufficient resources: a full disk, too many connections; not 53200
]);
/** connection exceptions */
const PASSING_CLASSES = ['08'];
/** A prepared statement that predates a migration. Any other 0A000 is a refusal; the message is in the server's language. */
const STALE_PLAN = { code: '0A000', routine: 'RevalidateCachedQuery' };
const FORGOTTEN = ['26000', '42P05'];
const LOCK_TIMEOUT = '55P03';
/** Memory, or the table of locks: what one statement wants and what the server has may both be the reason. */
const OUT_OF_MEMORY = '53200';
/** A value of over 1 GB: the allocator's own words, which are never translated, and a text's. */
const TOO_LARGE = { message: /^invalid memory alloc request size/, routine: 'enlargeStringInfo' };
/** After these the session is as it was. After others it is closed: it may be broken, or lead to the wrong server. */
const SESSION_ENDS = /^(08|25006|25P0|26|42P05|53|57P|58|F0|XX)/;
/** Of other clients, or of this connection alone: they say nothing of the database. */
const QUERY_CANCELED = '57014';
/** pg's, where Postgres ends no statement by itself: see `timeoutOf` in data-source.ts. */
const READ_TIMEOUT = 'Query read timeout';
const LOCAL = new Set(['40001', '40P01', STILL_THERE, ...FORGOTTEN, STALE_PLAN.code, QUERY_CANCELED]);
const READ_ONLY = '25006';
const DISK_FULL = '53100';
/** pg's own errors have no code. */
const LOST =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|Connection ended|timeout exceeded when trying to connect)/;

/** pg's error, inside TypeORM's when the statement had been sent. */
export function faultOf(error: unknown): Fault {
  return (error instanceof QueryFailedError ? error.driverError : error) as Fault;
}

/** The SQLSTATE of a statement that failed, undefined for any other error. */
export function sqlStateOf(error: unknown): string | undefined {
  return faultOf(error).code;
}

/** The class of its SQLSTATE, its first two characters; null when no server gave it one. */
export function sqlStateClassOf({ code }: Fault): string | null {
  return code !== undefined && isSqlState(code) ? code.slice(0, 2) : null;
}

/** Whether the same statement may succeed later. */
export function isPassing(fault: Fault): boolean {
  const { code, message } = fault;
  if (code === undefined) return LOST.test(message);
  if (isStalePlan(fault)) return true;
  return PASSING.has(code) || (isSqlState(code) && PASSING_CLASSES.includes(code.slice(0, 2)));
}

/** Whether it is the database that is away, and not one statement or connection that had bad luck. */
export function isOutage({ code }: Fault): boolean {
  return code === undefined || !LOCAL.has(code);
}

/** Whether a lock was not to be had in the time that `lock_timeout` gives. Nothing was done. */
export function isLockTimeout({ code }: Fault): boolean {
  return code === LOCK_TIMEOUT;
}

/** Whether the connection does not know the prepared statement that it was told of: so behind a pooler that keeps none. */
export function isForgotten({ code }: Fault): boolean {
  return code !== undefined && FORGOTTEN.includes(code);
}

/** Whether the connection has a prepared statement of before a migration; so have the others that are idle. */
export function isStalePlan({ code, routine }: Fault): boolean {
  return code === STALE_PLAN.code && routine === STALE_PLAN.routine;
}

/** Whether the server had too little memory, or room for locks, for this statement. */
export function isOutOfMemory({ code }: Fault): boolean {
  return code === OUT_OF_MEMORY;
}

/** Whether a value of the statement would be larger than Postgres can hold, so that it can never succeed. */
export function isTooLarge({ message, routine }: Fault): boolean {
  return TOO_LARGE.message.test(message) || routine === TOO_LARGE.routine;
}

/** Whether the connection can be used for the next statement. */
export function leavesSession(fault: Fault): boolean {
  return isAnswer(fault) && !SESSION_ENDS.test(fault.code ?? '') && !isStalePlan(fault);
}

/** Whether the connection leads to a server that is not, or no longer, the primary. */
export function isReadOnly({ code }: Fault): boolean {
  return code === READ_ONLY;
}

/** Whether the server has no room for what was to be written. */
export function isDiskFull({ code }: Fault): boolean {
  return code === DISK_FULL;
}

/** Ended by `statement_timeout`, or by an administrator: the code is the same, and the message in the server's language. */
export function isCanceled({ code, message }: Fault): boolean {
  return code === QUERY_CANCELED || message === READ_TIMEOUT;
}

/** Whether it was a server that said so, which can be reached then. */
export function isAnswer({ code }: Fault): boolean {
  return code !== undefined && isSqlState(code);
}

/** Not ERR_…, nor EPIPE, which has five characters too. */
function isSqlState(code: string): boolean {
  return /^[0-9A-Z]{5}$/.test(code) && /\d/.test(code);
}
