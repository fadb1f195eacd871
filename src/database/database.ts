import { setTimeout as delay } from 'node:timers/promises';
import { Inject, Injectable, Logger } from '@nestjs/common';
import type { Pool } from 'pg';
import { DataSource, QueryFailedError } from 'typeorm';
import type { PostgresDriver } from 'typeorm/driver/postgres/PostgresDriver.js';
import { DatabaseUnavailableError, QueueFullError } from '../checkpoints/checkpoint.errors.js';
import { Settings } from '../config/env.js';
import { Metrics, NO_SQLSTATE } from '../metrics/metrics.js';
import { TRACING, type Tracing } from '../tracing/tracing.js';
import { type Kind, RequestQueue } from './request-queue.js';

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
  ...['40001', '40P01'], // serialisation failure, deadlock: with other clients
]);
/** connection exceptions; insufficient resources, such as too many connections or a full disk */
const PASSING_CLASSES = ['08', '53'];
const CONFLICTS = '40';
const QUERY_CANCELED = '57014';
/** pg's own errors have no code. */
const LOST =
  /^(Connection terminated|Client has encountered a connection error|Connection ended|timeout exceeded when trying to connect)/;

/** A SQLSTATE: two characters of class, three more; Node's own codes of five, such as EPIPE, have no digit. */
const SQLSTATE = /^(?=.*\d)[0-9A-Z]{5}$/;

type DriverError = Error & { code?: string };

/** Runs one statement of a transaction. */
export type Query = <Row>(sql: string, parameters: unknown[]) => Promise<Row[]>;

const FIRST_DELAY_MS = 50;
const MAX_DELAY_MS = 1000;
/** Statements that keep their plan on a connection. `list` alone has hundreds of forms, most of which nobody asks for. */
const MAX_PREPARED = 64;

/** Requests that are not merged: each brings its own work. */
const SINGLE: Kind<() => Promise<void>> = { run: async ([work]) => work?.() };

/**
 * Runs statements on the pool, behind the queue. Every statement of the service may be repeated with the same result, so
 * one that a fault of the database cut off is sent again until `OUTAGE_WAIT_MS` has passed.
 */
@Injectable()
export class Database {
  private readonly logger = new Logger('database');
  private readonly queue: RequestQueue;
  private readonly names = new Map<string, string>();
  /** When the outage that is on began, in `Date.now()`'s milliseconds. */
  private outageSince: number | null = null;
  /** Statements that were sent again during it. */
  private repeats = 0;

  constructor(
    private readonly dataSource: DataSource,
    private readonly settings: Settings,
    private readonly metrics: Metrics,
    @Inject(TRACING) private readonly tracing: Tracing | null,
  ) {
    this.queue = new RequestQueue({
      slots: settings.databasePoolMax,
      max: settings.queueMax,
      waitMs: settings.queueWaitMs,
      giveUp: () => this.giveUp(),
      merge: settings.fastPath && settings.databasePrepared,
      observer: {
        waited: (milliseconds) => {
          metrics.queueWait.observe(milliseconds / 1000);
        },
        shared: (requests) => {
          metrics.statementRequests.observe(requests);
        },
        refused: (reason) => {
          metrics.queueRefused.add(reason);
        },
      },
      tracing: tracing ?? undefined,
    });
    Object.assign(metrics.read, {
      poolInUse: () => this.pool.totalCount - this.pool.idleCount,
      poolIdle: () => this.pool.idleCount,
      poolMax: () => settings.databasePoolMax,
      queueWaiting: () => this.queue.length,
      queueMax: () => settings.queueMax,
    });
  }

  /** Runs a statement in the thread's turn. @throws QueueFullError, DatabaseUnavailableError; what the statement did wrong */
  query<Row>(thread: string, sql: string, parameters: unknown[]): Promise<Row[]> {
    return this.inTurn(thread, () => this.send<Row>(sql, parameters));
  }

  /** Runs statements that belong together, each on a snapshot of its own; all of them are repeated, or none. */
  transaction<T>(thread: string, work: (query: Query) => Promise<T>): Promise<T> {
    return this.inTurn(thread, () =>
      this.retry(() =>
        this.dataSource.transaction('READ COMMITTED', (manager) =>
          work((sql, parameters) => manager.query(sql, parameters)),
        ),
      ),
    );
  }

  /** Carries out a request by a statement that it may share with others of its kind. @throws as `query` */
  merge<Request>(kind: Kind<Request>, thread: string, request: Request): Promise<void> {
    return this.queue.add(kind, thread, request);
  }

  /** What `Kind.run` is made of: runs a statement without waiting for a turn. @throws as `query` */
  async send<Row>(sql: string, values: unknown[]): Promise<Row[]> {
    const statement = { name: this.nameOf(sql), text: sql, values };
    const { rows } = await this.retry(() => this.pool.query(statement));
    return rows as Row[];
  }

  private async inTurn<T>(thread: string, work: () => Promise<T>): Promise<T> {
    let result: T | undefined;
    await this.queue.add(SINGLE, thread, async () => {
      result = await work();
    });
    return result as T;
  }

  /** TypeORM's pool itself: what TypeORM does around a statement costs more than the statement takes of this process. */
  private get pool(): Pool {
    return (this.dataSource.driver as PostgresDriver).master as Pool;
  }

  private nameOf(sql: string): string | undefined {
    if (!this.settings.databasePrepared) return undefined;
    let name = this.names.get(sql);
    if (name === undefined && this.names.size < MAX_PREPARED) {
      name = `checkpoint-backend-${this.names.size}`;
      this.names.set(sql, name);
    }
    return name;
  }

  private giveUp(): Error | null {
    const { queueWaitMs, outageWaitMs } = this.settings;
    if (this.outageSince === null) {
      return new QueueFullError(`No connection became free within ${queueWaitMs} ms`);
    }
    return Date.now() < this.outageSince + outageWaitMs ? null : unreachable();
  }

  private beginOutage(cause: DriverError): void {
    if (this.outageSince !== null) return;
    this.outageSince = Date.now();
    this.repeats = 0;
    this.logger.warn(`the database is away, requests wait for it: ${described(cause)}`);
  }

  private endOutage(since: number): void {
    this.outageSince = null;
    this.logger.warn(
      `the database is back after ${Date.now() - since} ms; statements were sent again ${this.repeats} times`,
    );
  }

  private async retry<T>(work: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + this.settings.outageWaitMs;
    for (let wait = FIRST_DELAY_MS; ; wait = Math.min(2 * wait, MAX_DELAY_MS)) {
      const began = performance.now();
      try {
        const result = await work();
        this.metrics.statementSeconds.observe((performance.now() - began) / 1000);
        if (this.outageSince !== null) this.endOutage(this.outageSince);
        return result;
      } catch (error) {
        const cause = unwrapped(error);
        const kind = classOf(cause);
        if (kind !== null) this.metrics.databaseErrors.add(kind);
        if (cause.code === QUERY_CANCELED) {
          throw new DatabaseUnavailableError(`A statement took over ${this.settings.statementTimeoutMs} ms`, {
            cause,
          });
        }
        if (!isPassing(cause)) throw error;
        if (!cause.code?.startsWith(CONFLICTS)) this.beginOutage(cause);
        if (Date.now() + wait > deadline) throw unreachable(cause);
        this.metrics.databaseRetries.add(kind ?? NO_SQLSTATE);
        this.tracing?.retry(cause, wait);
        this.repeats += 1;
        this.logger.debug(`sent again in ${wait} ms: ${described(cause)}`);
        await delay(wait * (0.5 + Math.random() / 2));
      }
    }
  }
}

/** The class of its SQLSTATE; null when the error is not the database's. */
function classOf({ code, message }: DriverError): string | null {
  if (code === undefined) return LOST.test(message) ? NO_SQLSTATE : null;
  if (SQLSTATE.test(code)) return code.slice(0, 2);
  return PASSING.has(code) ? NO_SQLSTATE : null;
}

function described({ code, message }: DriverError): string {
  return code === undefined ? message : `${code} ${message}`;
}

function unreachable(cause?: unknown): DatabaseUnavailableError {
  return new DatabaseUnavailableError('The database cannot be reached', { cause });
}

/** pg's error, inside TypeORM's when the statement had been sent. */
function unwrapped(error: unknown): DriverError {
  return (error instanceof QueryFailedError ? error.driverError : error) as DriverError;
}

/** The SQLSTATE of a statement that failed, undefined for any other error. */
export function sqlStateOf(error: unknown): string | undefined {
  return unwrapped(error).code;
}

function isPassing({ code, message }: DriverError): boolean {
  if (code === undefined) return LOST.test(message);
  return PASSING.has(code) || (code.length === 5 && PASSING_CLASSES.includes(code.slice(0, 2)));
}
