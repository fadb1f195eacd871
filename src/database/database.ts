import { setTimeout as delay } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import { DataSource, QueryFailedError } from 'typeorm';
import { DatabaseUnavailableError, QueueFullError } from '../checkpoints/checkpoint.errors.js';
import { Settings } from '../config/env.js';

/** SQLSTATEs and socket errors after which the same statement may succeed on another connection or a little later. */
const PASSING = new Set([
  ...[
    'ECONNREFUSED',
    'ECONNRESET',
    'EPIPE',
    'ETIMEDOUT',
    'ENOTFOUND',
    'EAI_AGAIN',
    'EHOSTUNREACH',
    'ENETUNREACH',
  ],
  ...['57P01', '57P02', '57P03'], // shut down by the administrator, crashed, starting up
  '25006', // read-only: a standby that is about to be promoted
  ...['40001', '40P01'], // serialisation failure, deadlock
]);
/** connection exceptions; insufficient resources, such as too many connections or a full disk */
const PASSING_CLASSES = ['08', '53'];
const QUERY_CANCELED = '57014';
/** pg's own errors have no code. */
const LOST = /^(Connection terminated|Client has encountered a connection error|Connection ended)/;
const POOL_TIMEOUT = 'timeout exceeded when trying to connect';

/** Runs one statement of a transaction. */
export type Query = <Row>(sql: string, parameters: unknown[]) => Promise<Row[]>;

const FIRST_DELAY_MS = 50;
const MAX_DELAY_MS = 1000;

/**
 * Runs statements on the pool. Every statement of the service may be repeated with the same result, so one that a fault
 * of the database cut off is sent again until `OUTAGE_WAIT_MS` has passed.
 */
@Injectable()
export class Database {
  private readonly logger = new Logger('database');
  private running = 0;

  constructor(
    private readonly dataSource: DataSource,
    private readonly settings: Settings,
  ) {}

  /** @throws QueueFullError, DatabaseUnavailableError; QueryFailedError for what the statement itself did wrong */
  async query<Row>(sql: string, parameters: unknown[]): Promise<Row[]> {
    return this.admit(() => this.dataSource.query<Row[]>(sql, parameters));
  }

  /** Runs statements that belong together, each on a snapshot of its own; all of them are repeated, or none. */
  async transaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    return this.admit(() =>
      this.dataSource.transaction('READ COMMITTED', (manager) =>
        work((sql, parameters) => manager.query(sql, parameters)),
      ),
    );
  }

  private async admit<T>(work: () => Promise<T>): Promise<T> {
    if (this.running >= this.settings.databasePoolMax + this.settings.queueMax) {
      throw new QueueFullError(`${this.settings.queueMax} requests wait for a connection already`);
    }
    this.running += 1;
    try {
      return await this.retry(work);
    } finally {
      this.running -= 1;
    }
  }

  private async retry<T>(work: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + this.settings.outageWaitMs;
    for (let wait = FIRST_DELAY_MS; ; wait = Math.min(2 * wait, MAX_DELAY_MS)) {
      try {
        return await work();
      } catch (error) {
        const cause = unwrapped(error);
        if (cause.message === POOL_TIMEOUT) {
          throw new QueueFullError(`No connection became free within ${this.settings.queueWaitMs} ms`, {
            cause,
          });
        }
        if (cause.code === QUERY_CANCELED) {
          throw new DatabaseUnavailableError(`A statement took over ${this.settings.statementTimeoutMs} ms`, {
            cause,
          });
        }
        if (!isPassing(cause)) throw error;
        if (Date.now() + wait > deadline) {
          throw new DatabaseUnavailableError('The database cannot be reached', { cause });
        }
        this.logger.warn(`sent again in ${wait} ms: ${cause.code ?? ''} ${cause.message}`);
        await delay(wait * (0.5 + Math.random() / 2));
      }
    }
  }
}

/** pg's error, inside TypeORM's when the statement had been sent. */
function unwrapped(error: unknown): Error & { code?: string } {
  return (error instanceof QueryFailedError ? error.driverError : error) as Error & { code?: string };
}

/** The SQLSTATE of a statement that failed, undefined for any other error. */
export function sqlStateOf(error: unknown): string | undefined {
  return error instanceof QueryFailedError ? unwrapped(error).code : undefined;
}

function isPassing({ code, message }: Error & { code?: string }): boolean {
  if (code === undefined) return LOST.test(message);
  return PASSING.has(code) || (code.length === 5 && PASSING_CLASSES.includes(code.slice(0, 2)));
}
