import type { LoggerService } from '@nestjs/common';
import { type Logger, pino, stdTimeFunctions } from 'pino';

/** An error of the driver also carries the statement's parameters, which are the callers' data. */
const serializers = {
  err: ({ name, message, code, stack }: Error & { code?: string }) => ({ type: name, code, message, stack }),
};

const [STDOUT, STDERR] = [1, 2];

/** `worker` is on every line, when the process is one of several. */
export function createLogger(level: string, worker?: number, fd = STDOUT): Logger {
  const options = {
    level,
    base: worker === undefined ? undefined : { worker },
    serializers,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  return pino(options, pino.destination(fd));
}

/** For a command whose standard output is its result. */
export function createCommandLogger(level: string): Logger {
  return createLogger(level, undefined, STDERR);
}

/** Node's own warnings, such as of a leak, are lines like all others, instead of its text on standard error. */
export function logWarnings(logger: Logger): void {
  process.removeAllListeners('warning');
  process.on('warning', ({ name, message, stack }) => {
    logger.warn({ kind: name, stack }, message);
  });
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
