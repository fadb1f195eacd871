import type { IncomingMessage, ServerResponse } from 'node:http';

declare module 'node:http' {
  interface IncomingMessage {
    /** Absent when the request is not traced. */
    trace?: RequestTrace;
  }
}

/** A request that is traced. */
export interface RequestTrace {
  readonly traceId: string;
  /** Runs what answers the request, whose body has been read. */
  run: (body: unknown, next: () => void) => void;
}

/** A request in the queue, and since when, as `performance.now()` has it. */
interface Queued {
  trace?: unknown;
  since: number;
}

/** Makes the spans of a request; there is none of these while tracing is off. */
export interface Tracing {
  /** Begins the span of a request, as `request.trace`, when it is sampled. */
  begin: (request: IncomingMessage, response: ServerResponse) => void;
  /** The request on whose behalf this runs; undefined when it is not traced. */
  current: () => unknown;
  /** The request's wait in the queue is over. */
  begun: (request: Queued) => void;
  /** The request waited in vain. */
  gaveUp: (request: Queued, reason: Error) => void;
  /** Runs a statement of the requests. */
  statement: <T>(requests: Queued[], work: () => Promise<T>) => Promise<T>;
  /** The statement that this runs in failed, and is sent again. */
  retry: (error: Error & { code?: string }, waitMs: number) => void;
  /** Sends what is left. */
  stop: () => Promise<void>;
}

/** Where Nest finds the `Tracing`, or null. */
export const TRACING = Symbol('tracing');
