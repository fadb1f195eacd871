import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { LoggerService } from '@nestjs/common';
import { type Logger, pino, stdTimeFunctions } from 'pino';
import { pinoHttp } from 'pino-http';

/** Printable ASCII without spaces, so that a caller cannot forge lines of a log. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

/** An error of the driver also carries the statement's parameters, which are the callers' data. */
const serializers = {
  err: ({ name, message, code, stack }: Error & { code?: string }) => ({ type: name, code, message, stack }),
};

export function createLogger(level: string): Logger {
  return pino({
    level,
    base: undefined,
    serializers,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  });
}

/**
 * Gives each request its id, from `x-request-id` or new, returns it, and logs one line when it is answered: method, path,
 * status and time, never a payload.
 */
export function requestLog(logger: Logger) {
  return pinoHttp({
    logger,
    genReqId: (request, response) => {
      const given = request.headers['x-request-id'];
      const id = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
      response.setHeader('x-request-id', id);
      return id;
    },
    customLogLevel: (_request, response) =>
      response.statusCode >= 500 ? 'error' : response.statusCode >= 400 ? 'warn' : 'debug',
    serializers: {
      ...serializers,
      req: ({ id, method, url }: { id: string; method: string; url: string }) => ({
        id,
        method,
        url: url.split('?')[0],
      }),
      res: ({ statusCode }: { statusCode: number }) => ({ statusCode }),
    },
  }) as (request: IncomingMessage, response: ServerResponse, next: () => void) => void;
}

/** Nest's own lines, through the same logger. */
export class NestLog implements LoggerService {
  constructor(private readonly logger: Logger) {}

  log = (message: unknown, context?: string) => {
    this.logger.debug({ context }, String(message));
  };
  debug = this.log;
  verbose = this.log;
  warn = (message: unknown, context?: string) => {
    this.logger.warn({ context }, String(message));
  };
  error = (message: unknown, ...rest: string[]) => {
    this.logger.error({ context: rest.at(-1) }, String(message));
  };
  fatal = this.error;
}
