import { QueryFailedError } from 'typeorm';

/** pg's error: with a SQLSTATE, a code of the socket, or none. */
export type Fault = Error & { code?: string };

/** SQLSTATEs and socket errors after which the same statement may succeed on another connection or a little later. */
const PASSING = new Set([
  ...['ECONNREFUSED', 'ECONNRESET', 'ECONNABORTED', 'EPIPE', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN'],
  ...['EHOSTUNREACH', 'EHOSTDOWN', 'ENETUNREACH', 'ENETDOWN', 'EADDRNOTAVAIL', 'EMFILE', 'ENFILE'],
  ...['57P01', '57P02', '57P03', '57P05'], // shut down by the administrator, crashed, starting up, idle for too long
  ...['25006', '25P03'], // read-only: an old primary, or a standby that is about to be promoted; idle in transaction
  ...['40001', '40P01', '55P03'], // serialisation failure, deadlock, lock timeout: with other clients
  ...['26000', '42P05', '0A000'], // a prepared statement that is gone, was there, or predates a migration
]);
/** connection exceptions; insufficient resources, such as too many connections or a full disk */
const PASSING_CLASSES = ['08', '53'];
/** Of other clients, or of this connection alone: they say nothing of the database. */
const QUERY_CANCELED = '57014';
/** pg's, where Postgres ends no statement by itself: see `timeoutOf` in data-source.ts. */
const READ_TIMEOUT = 'Query read timeout';
const LOCAL = new Set(['40001', '40P01', '55P03', '26000', '42P05', '0A000', QUERY_CANCELED]);
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
export function isPassing({ code, message }: Fault): boolean {
  if (code === undefined) return LOST.test(message);
  return PASSING.has(code) || (isSqlState(code) && PASSING_CLASSES.includes(code.slice(0, 2)));
}

/** Whether it is the database that is away, and not one statement or connection that had bad luck. */
export function isOutage({ code }: Fault): boolean {
  return code === undefined || !LOCAL.has(code);
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
