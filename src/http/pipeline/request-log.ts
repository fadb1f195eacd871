import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { onClose } from '../../request/on-close.js';
import type { Middleware } from './exact-routes.js';

declare module 'node:http' {
  interface ServerResponse {
    /** Why the answer, or a part of it, is a 5xx, for the log. */
    err?: Error;
    /** The status of that, which is not the answer's when it is a part of it. */
    errStatus?: number;
  }
}

/** Printable ASCII without spaces, so that a caller cannot forge lines of a log. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

const NO_VALID_KEY = { kind: 'unauthorized', reason: 'no valid key' };

/** How long refusals of a kind are counted before a line says how many there were. */
const REFUSALS_MS = 10_000;

/**
 * Under overload, while the database is away, or by a flood of guesses, requests are refused by the thousand, all for one
 * reason. The first is a line at `warn`; the others are lines at `debug`, and one at `warn` says how many they were.
 */
export class Refusals {
  private readonly counts = new Map<string, number>();

  constructor(private readonly logger: Logger) {}

  /** The level for one more refusal of that kind. */
  level(kind: string): 'warn' | 'debug' {
    const count = this.counts.get(kind);
    this.counts.set(kind, count === undefined ? 0 : count + 1);
    if (count !== undefined) return 'debug';
    setTimeout(() => {
      const more = this.counts.get(kind) ?? 0;
      this.counts.delete(kind);
      if (more > 0) {
        this.logger.warn({ kind, count: more }, `${more} more requests were refused: ${kind}`);
      }
    }, REFUSALS_MS).unref();
    return 'warn';
  }
}

/**
 * Gives each request its id, from `x-request-id` or new, returns it, and logs one line when it is answered: method, path,
 * status and time, never a payload. `pino-http` does the same at some 20 µs a request, also when nothing is logged.
 */
export function requestLog(logger: Logger): Middleware {
  const refusals = new Refusals(logger);
  return (request, response, next) => {
    const given = request.headers['x-request-id'];
    const id = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    response.setHeader('x-request-id', id);
    const began = performance.now();
    onClose(response, () => {
      const { statusCode, err } = response;
      const worst = Math.max(statusCode, response.errStatus ?? 0);
      const refusal = worst === 503 ? refusalOf(err) : worst === 401 ? NO_VALID_KEY : undefined;
      const level =
        refusal !== undefined
          ? refusals.level(refusal.kind)
          : worst >= 500
            ? 'error'
            : worst >= 400
              ? 'warn'
              : 'debug';
      if (!logger.isLevelEnabled(level)) return;
      const { method, url } = request;
      const line = {
        req: { id, method, url: url?.split('?')[0], ...(request.trace && { trace: request.trace.traceId }) },
        res: { statusCode },
        responseTime: Math.round(performance.now() - began),
        ...(refusal ?? (err && { err })),
      };
      logger[level](line, response.writableFinished ? 'request completed' : 'request aborted');
    });
    next();
  };
}

/** In words, without a stack: it is no fault of the code's. */
function refusalOf(err: (Error & { code?: string }) | undefined): { kind: string; reason: string } {
  return { kind: err?.code ?? 'unavailable', reason: err?.message ?? '' };
}
