import { setTimeout as delay } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import type { Pool } from 'pg';
import { DataSource } from 'typeorm';
import type { PostgresDriver } from 'typeorm/driver/postgres/PostgresDriver.js';
import { DatabaseUnavailableError, QueueTimeoutError } from '../checkpoints/checkpoint.errors.js';
import { Settings } from '../config/env.js';
import { currentCaller } from '../http/caller.js';
import { Inflight } from '../http/inflight.js';
import { Metrics, NO_SQLSTATE } from '../metrics/metrics.js';
import { TRACING, type Tracing } from '../tracing/tracing.js';
import {
  type Fault,
  faultOf,
  isCanceled,
  isDiskFull,
  isOutage,
  isPassing,
  isReadOnly,
  sqlStateClassOf,
} from './faults.js';
import { BoundedQuery, type Parameter, Statement, TooManyBytesError } from './binary-client.js';
import { statementTimeoutOf } from './data-source.js';
import { type Kind, RequestQueue } from './request-queue.js';
import { Watchdog } from './watchdog.js';

/** Runs one statement of a transaction. */
export type Query = <Row>(sql: string, parameters: unknown[]) => Promise<Row[]>;
/** Writes to the audit log, in the transaction, what it does for its caller; `detail` is beside what the request says. */
export type Record = (detail?: object) => Promise<void>;
/** Runs the statements of one transaction, again when a fault cut it off. */
export type Transaction = <T>(work: (query: Query, record: Record) => Promise<T>) => Promise<T>;

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
export class Database implements OnApplicationShutdown {
  private readonly logger = new Logger('database');
  private readonly queue: RequestQueue;
  private readonly names = new Map<string, string>();
  private readonly watchdog: Watchdog;
  /** How many statements wait to be sent again. */
  private failing = 0;
  /** When the outage that is on began, and when the last one ended, in `Date.now()`'s milliseconds. */
  private outageSince: number | null = null;
  private outageEnd = 0;
  /** Statements that were sent again during it. */
  private repeats = 0;
  /** When a statement last failed since the disk was full, by the monotonic clock. */
  private diskFullAt = -Infinity;

  constructor(
    private readonly dataSource: DataSource,
    private readonly settings: Settings,
    private readonly metrics: Metrics,
    @Inject(TRACING) private readonly tracing: Tracing | null,
  ) {
    const inflight = Inflight.of(settings);
    this.queue = new RequestQueue({
      slots: settings.databasePoolMax,
      max: settings.queueMax,
      tenantSlots: settings.tenantMaxConcurrent,
      waitMs: settings.queueWaitMs,
      giveUp: () => this.giveUp(),
      merge: settings.fastPath && settings.databasePrepared,
      isHeld: (running) => inflight.holdsAnswers(running),
      isTenantHeld: (tenant, running) => inflight.holdsAnswersOf(tenant, running),
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
      inflightBytes: () => inflight.totalBytes,
    });
    inflight.onRoom = () => {
      this.queue.begin();
    };
    this.watchdog = new Watchdog(this.pool, this.logger);
  }

  onApplicationShutdown(): void {
    this.watchdog.stop();
  }

  /** Runs a statement in the thread's turn. @throws QueueFullError, QueueTimeoutError, DatabaseUnavailableError; what the statement did wrong */
  query<Row>(thread: string, sql: string, parameters: unknown[]): Promise<Row[]> {
    return this.inTurn(thread, async () => {
      const statement = { name: this.nameOf(sql), text: sql, values: parameters };
      return (await this.retry(() => this.pool.query(statement))).rows as Row[];
    });
  }

  /** Runs statements that belong together, each on a snapshot of its own; all of them are repeated, or none. */
  transaction<T>(thread: string, work: (query: Query, record: Record) => Promise<T>): Promise<T> {
    return this.transactions(thread, (transaction) => transaction(work));
  }

  /** The same for several transactions, one after the other, in one turn: once it is begun the queue refuses none of them. */
  transactions<T>(thread: string, work: (transaction: Transaction) => Promise<T>): Promise<T> {
    const deed = currentCaller()?.deed;
    let count = 0;
    const transaction: Transaction = (steps) => {
      const part = count++;
      return this.retry(() =>
        this.attempt((query) => steps(query, async (detail) => deed?.record(query, part, detail))),
      );
    };
    return this.inTurn(thread, () => work(transaction));
  }

  /** Runs statements that read from one snapshot. */
  snapshot<T>(thread: string, work: (query: Query) => Promise<T>): Promise<T> {
    return this.inTurn(thread, () => this.retry(() => this.attempt(work, 'repeatable read, read only')));
  }

  /** Carries out a request by a statement that it may share with others of its kind. @throws as `query` */
  merge<Request>(kind: Kind<Request>, thread: string, request: Request): Promise<void> {
    return this.queue.add(kind, thread, request, currentCaller());
  }

  /**
   * What `Kind.run` is made of: runs a statement without waiting for a turn, and gives its rows as arrays. On the fast path
   * a `bytea` is what `Statement` makes of it, otherwise a Buffer. @throws as `query`; TooManyBytesError
   */
  async send<Row>(sql: string, values: Parameter[], maxBytes = Infinity): Promise<Row[]> {
    const name = this.nameOf(sql);
    const { rows } = await this.retry(() =>
      this.settings.fastPath
        ? this.pool.query<unknown[]>(new Statement(name, sql, values, maxBytes) as never)
        : this.sendPlainly({ name, text: sql, values, rowMode: 'array' }, maxBytes),
    );
    return rows as Row[];
  }

  /** Whether a statement failed for want of disk space in the last milliseconds. */
  hasLackedDiskFor(milliseconds: number): boolean {
    return performance.now() < this.diskFullAt + milliseconds;
  }

  private async sendPlainly(
    config: ConstructorParameters<typeof BoundedQuery>[0],
    maxBytes: number,
  ): Promise<{ rows: unknown[][] }> {
    // A bytea comes as hexadecimal text, twice as long.
    const query = new BoundedQuery(config, 2 * maxBytes);
    const result = await this.pool.query<unknown[]>(query as never);
    if (query.isOver) throw new TooManyBytesError();
    return result;
  }

  private async inTurn<T>(thread: string, work: () => Promise<T>): Promise<T> {
    let result: T | undefined;
    const carryOut = async () => {
      result = await work();
    };
    await this.queue.add(SINGLE, thread, carryOut, currentCaller());
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

  private async attempt<T>(work: (query: Query) => Promise<T>, mode = 'read committed'): Promise<T> {
    const client = await this.pool.connect();
    let isCommitted = false;
    try {
      await client.query(`begin isolation level ${mode}`);
      const result = await work(async (sql, values) => (await client.query(sql, values)).rows as never);
      await client.query('commit');
      isCommitted = true;
      return result;
    } finally {
      // The end of its connection rolls a transaction back, whatever state it is in.
      client.release(!isCommitted);
    }
  }

  private giveUp(): Error | null {
    const { queueWaitMs, outageWaitMs } = this.settings;
    if (this.outageSince !== null) {
      return Date.now() < this.outageSince + outageWaitMs ? null : unreachable();
    }
    // Of a network that went silent nothing has failed yet.
    if (this.watchdog.isInDoubt) return null;
    // What gathered during an outage has its turn after it.
    if (Date.now() < this.outageEnd + queueWaitMs) return null;
    return new QueueTimeoutError(`No connection became free within QUEUE_WAIT_MS = ${queueWaitMs}`);
  }

  /** Sends again what a fault cut off that passes. */
  private async retry<T>(work: () => Promise<T>): Promise<T> {
    const deadline = Date.now() + this.settings.outageWaitMs;
    let fails = false;
    try {
      for (let wait = FIRST_DELAY_MS; ; wait = Math.min(2 * wait, MAX_DELAY_MS)) {
        const begun = Date.now();
        try {
          if (wait > FIRST_DELAY_MS) await this.watchdog.fence();
          const began = performance.now();
          const result = await work();
          this.metrics.statementSeconds.observe((performance.now() - began) / 1000);
          if (this.outageSince !== null) this.hasSucceeded(this.outageSince, fails);
          return result;
        } catch (error) {
          const cause = faultOf(error);
          const kind = sqlStateClassOf(cause) ?? (isPassing(cause) ? NO_SQLSTATE : null);
          if (kind !== null) this.metrics.databaseErrors.add(kind);
          if (isDiskFull(cause)) this.diskFullAt = performance.now();
          this.refuse(error, Date.now() - begun);
          if (isOutage(cause) && !fails) {
            fails = true;
            this.failing += 1;
            this.beginOutage(begun, cause);
          }
          if (Date.now() + wait > deadline) throw unreachable(cause);
          this.metrics.databaseRetries.add(kind ?? NO_SQLSTATE);
          this.tracing?.retry(cause, wait);
          this.repeats += 1;
          this.logger.debug(`sent again in ${wait} ms: ${described(cause)}`);
        }
        await delay(wait * (0.5 + Math.random() / 2));
      }
    } finally {
      if (fails) this.failing -= 1;
    }
  }

  /** Throws what is not to be sent again. */
  private refuse(error: unknown, elapsedMs: number): void {
    const cause = faultOf(error);
    if (isCanceled(cause)) {
      const timeoutMs = statementTimeoutOf(this.dataSource.options);
      if (elapsedMs < timeoutMs) return; // by an administrator
      throw new DatabaseUnavailableError(`A statement took over ${timeoutMs} ms`, { cause });
    }
    if (!isPassing(cause)) throw error;
  }

  private beginOutage(since: number, cause: Fault): void {
    if (isReadOnly(cause)) this.watchdog.dropIdle();
    if (this.outageSince !== null) return;
    this.outageSince = since;
    this.repeats = 0;
    this.logger.warn(`the database is away, requests wait for it: ${described(cause)}`);
  }

  /** While others fail, such as writes on a read-only server, the outage is not over. */
  private hasSucceeded(since: number, failed: boolean): void {
    if (this.failing > (failed ? 1 : 0)) return;
    this.outageSince = null;
    this.outageEnd = Date.now();
    this.logger.warn(
      `the database is back after ${Date.now() - since} ms; statements were sent again ${this.repeats} times`,
    );
  }
}

function described({ code, message }: Fault): string {
  return code === undefined ? message : `${code} ${message}`;
}

function unreachable(cause?: unknown): DatabaseUnavailableError {
  return new DatabaseUnavailableError('The database cannot be reached', { cause });
}
