import { setTimeout as delay } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnApplicationShutdown } from '@nestjs/common';
import type { Pool, PoolClient, QueryConfig } from 'pg';
import { DataSource } from 'typeorm';
import type { PostgresDriver } from 'typeorm/driver/postgres/PostgresDriver.js';
import {
  DatabaseUnavailableError,
  QueueTimeoutError,
  StatementTimeoutError,
  StatementTooLargeError,
} from '../errors/errors.js';
import { Settings } from '../config/env.js';
import { currentCaller } from '../request/caller.js';
import { Inflight } from '../request/inflight.js';
import { NoRoomError, type Reading } from '../request/read-memory.js';
import { Metrics, NO_SQLSTATE } from '../observability/metrics/metrics.js';
import { TRACING, type Tracing } from '../observability/tracing/tracing.js';
import {
  type Fault,
  faultOf,
  isAnswer,
  isCanceled,
  isDiskFull,
  isForgotten,
  isOutage,
  isOutOfMemory,
  isPassing,
  isReadOnly,
  isStalePlan,
  isTooLarge,
  leavesSession,
  sqlStateClassOf,
} from './faults.js';
import { BoundedQuery, type Parameter, Statement, TooManyBytesError } from './binary-client.js';
import { beforeOf, isPooled, statementTimeoutOf } from './data-source.js';
import { StatementNames } from './prepared-client.js';
import { type Kind, type Mode, RequestQueue } from './request-queue.js';
import { Watchdog } from './watchdog.js';

/** Runs one statement of a transaction. */
export type Query = <Row>(sql: string, parameters: unknown[]) => Promise<Row[]>;
/** Writes to the audit log, in the transaction, what it does for its caller; `detail` is beside what the request says. */
export type Record = (detail?: object) => Promise<void>;
/** Runs the statements of one transaction, again when a fault cut it off. */
export type Transaction = <T>(work: (query: Query, record: Record) => Promise<T>) => Promise<T>;

const FIRST_DELAY_MS = 50;
const MAX_DELAY_MS = 1000;

/** What pg is asked, and what it answers. */
type Asked = Statement | BoundedQuery | QueryConfig;
interface Answered {
  rows: unknown[];
}

type Work = (mode: Mode) => Promise<void>;

/** Requests that are not merged: each brings its own work. */
const SINGLE: Kind<Work> = { run: async ([work], mode) => work?.(mode) };
/** Those whose statements lock what others of their thread need. */
const TRANSACTION: Kind<Work> = { ...SINGLE, isSerial: true };

/**
 * Runs statements on the pool, behind the queue. Every statement of the service may be repeated with the same result, so
 * one that a fault of the database cut off is sent again until `OUTAGE_WAIT_MS` has passed.
 */
@Injectable()
export class Database implements OnApplicationShutdown {
  private readonly logger = new Logger('database');
  private readonly queue: RequestQueue;
  private readonly inflight: Inflight;
  private readonly names = new StatementNames();
  private keepsPrepared: boolean;
  /** What goes in front of each statement, behind a pooler. */
  private readonly before: string;
  private readonly watchdog: Watchdog;
  /** How many statements wait to be sent again. */
  private failing = 0;
  /** When the outage that is on began, and when the last one ended, as `performance.now()` has it. */
  private outageSince: number | null = null;
  private outageEnd = -Infinity;
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
    this.keepsPrepared = settings.databasePrepared;
    this.before = beforeOf(dataSource.options);
    const inflight = (this.inflight = Inflight.of(settings));
    this.queue = new RequestQueue({
      slots: settings.databasePoolMax,
      max: settings.queueMax,
      tenantSlots: settings.tenantMaxConcurrent,
      waitMs: settings.queueWaitMs,
      lockWaitMs: settings.statementTimeoutMs,
      giveUp: () => this.giveUp(),
      merge: settings.fastPath && settings.databasePrepared,
      isHeld: (running) => inflight.holdsAnswers(running),
      isTenantHeld: (tenant, running) => inflight.holdsAnswersOf(tenant, running),
      isReading: (since) => inflight.reads.hasOlder(since),
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
    this.watchdog = new Watchdog(this.pool, this.logger, isPooled(dataSource.options));
  }

  onApplicationShutdown(): void {
    this.watchdog.stop();
  }

  /** Runs a statement in the thread's turn. @throws QueueFullError, QueueTimeoutError, DatabaseUnavailableError; what the statement did wrong */
  query<Row>(thread: string, sql: string, parameters: unknown[]): Promise<Row[]> {
    return this.inTurn(SINGLE, thread, async () => {
      const { rows } = await this.retry(() => this.run(this.queryOf(sql, parameters)));
      return rows as Row[];
    });
  }

  /**
   * Runs statements that belong together, each on a snapshot of its own; all of them are repeated, or none. Those of one
   * thread go one after the other.
   */
  transaction<T>(thread: string, work: (query: Query, record: Record) => Promise<T>): Promise<T> {
    return this.transactions(thread, (transaction) => transaction(work));
  }

  /**
   * The same for several transactions, one after the other, in one turn. When one of them meets a lock, `work` gives its
   * connection back, and begins anew later: it has to know by itself what is done.
   */
  transactions<T>(thread: string, work: (transaction: Transaction) => Promise<T>): Promise<T> {
    const deed = currentCaller()?.deed;
    let part = 0;
    return this.inTurn(TRANSACTION, thread, (mode) =>
      work(async (steps) => {
        const record =
          (query: Query): Record =>
          async (detail) =>
            deed?.record(query, part, detail);
        const result = await this.retry(() => this.attempt((query) => steps(query, record(query)), mode));
        part += 1;
        return result;
      }),
    );
  }

  /** Runs statements that read from one snapshot, and whose rows count until the end. @throws TooManyBytesError, NoRoomError */
  snapshot<T>(thread: string, work: (query: Query) => Promise<T>): Promise<T> {
    return this.inTurn(SINGLE, thread, (mode) =>
      this.retry(() => this.read(mode, (reading) => this.attempt(work, mode, reading))),
    );
  }

  /** Carries out a request by a statement that it may share with others of its kind. @throws as `query` */
  merge<Request>(kind: Kind<Request>, thread: string, request: Request): Promise<void> {
    return this.queue.add(kind, thread, request, currentCaller()).catch(refused);
  }

  /**
   * What `Kind.run` is made of: runs a statement in a turn of the tenant's, and gives its rows as arrays. On the fast path a
   * `bytea` is what `Statement` makes of it, otherwise, and when it `keepsBytes`, a Buffer.
   *
   * @throws as `query`; TooManyBytesError, NoRoomError
   */
  async send<Row>(
    sql: string,
    values: Parameter[],
    mode: Mode,
    maxBytes = Infinity,
    keepsBytes = false,
  ): Promise<Row[]> {
    const { rows } = await this.retry(() =>
      this.read(mode, (reading) =>
        this.settings.fastPath
          ? this.run(new Statement(this.nameOf(sql), sql, values, maxBytes, this.before, reading, keepsBytes))
          : this.sendPlainly(sql, values, maxBytes, reading),
      ),
    );
    return rows as Row[];
  }

  /** Whether a statement failed for want of disk space in the last milliseconds. */
  hasLackedDiskFor(milliseconds: number): boolean {
    return performance.now() < this.diskFullAt + milliseconds;
  }

  private async sendPlainly(
    sql: string,
    values: Parameter[],
    maxBytes: number,
    reading: Reading,
  ): Promise<Answered> {
    // A bytea comes as hexadecimal text, twice as long.
    return this.run(
      new BoundedQuery({ ...this.queryOf(sql, values), rowMode: 'array' }, 2 * maxBytes, reading),
    );
  }

  private async read<T>(mode: Mode, work: (reading: Reading) => Promise<T>): Promise<T> {
    const reading = this.inflight.reads.begin(mode);
    try {
      return await work(reading);
    } finally {
      // What was read is counted as an answer in a moment only.
      if (reading.isLarge) {
        setImmediate(() => {
          reading.end();
          this.queue.begin();
        });
      }
    }
  }

  private async inTurn<T>(kind: Kind<Work>, thread: string, work: (mode: Mode) => Promise<T>): Promise<T> {
    let result: T | undefined;
    const carryOut = async (mode: Mode) => {
      result = await work(mode);
    };
    await this.queue.add(kind, thread, carryOut, currentCaller()).catch(refused);
    return result as T;
  }

  private queryOf(sql: string, values: unknown[]): QueryConfig {
    return { name: this.before === '' ? this.nameOf(sql) : undefined, text: sql, values };
  }

  /** TypeORM's pool itself: what TypeORM does around a statement costs more than the statement takes of this process. */
  private get pool(): Pool {
    return (this.dataSource.driver as PostgresDriver).master as Pool;
  }

  private nameOf(sql: string): string | undefined {
    return this.keepsPrepared ? this.names.nameOf(sql) : undefined;
  }

  /** Not by `Pool.query`, which closes the connection when the statement is refused. */
  private async run(statement: Asked): Promise<Answered> {
    const client = await this.pool.connect();
    let isUsable = false;
    try {
      const isWhole = this.before === '' || statement instanceof Statement;
      if (!isWhole) await client.query(`begin; ${this.before}`);
      const result = await this.ask(client, statement);
      if (!isWhole) await client.query('commit');
      isUsable = true;
      return result;
    } catch (error) {
      isUsable = await this.isUsableAfter(error, client, statement);
      throw error;
    } finally {
      client.release(!isUsable);
    }
  }

  private ask(client: PoolClient, statement: Asked): Promise<Answered> {
    return new Promise((resolve, reject) => {
      client.query(statement as QueryConfig, (error: Error | null | undefined, result: Answered) => {
        if (error) reject(error);
        else resolve(result);
      });
    });
  }

  private async isUsableAfter(error: unknown, client: PoolClient, statement?: Asked): Promise<boolean> {
    const fault = faultOf(error);
    const isWhole = error instanceof TooManyBytesError || error instanceof NoRoomError;
    if (isWhole && statement instanceof Statement) return !statement.hasClosed;
    const isLeft =
      isWhole || (leavesSession(fault) && !(statement instanceof Statement && statement.leavesDoubt));
    if (!isLeft) {
      if (!isAnswer(fault) && writes(statement)) this.watchdog.lose(client);
      return false;
    }
    if (statement instanceof Statement || (statement !== undefined && this.before === '')) return true;
    return rolledBack(client);
  }

  private async attempt<T>(
    work: (query: Query) => Promise<T>,
    { lockWaitMs }: Mode,
    reading: Reading | null = null,
  ): Promise<T> {
    const client = await this.pool.connect();
    let isUsable = false;
    /** What the last statement was refused with. Other errors are ours, and the connection is as good as before. */
    let refusal: unknown = null;
    const ask = async (text: string, values?: unknown[]) => {
      try {
        const query = { text, values };
        return await this.ask(client, reading === null ? query : new BoundedQuery(query, Infinity, reading));
      } catch (error) {
        refusal = error;
        throw error;
      }
    };
    try {
      const before = this.before === '' ? '' : `${this.before};`;
      const isolation = reading === null ? 'read committed' : 'repeatable read, read only';
      await ask(`begin isolation level ${isolation}; ${before} set local lock_timeout = ${lockWaitMs}`);
      const result = await work(async (sql, values) => (await ask(sql, values)).rows as never);
      await ask('commit');
      isUsable = true;
      return result;
    } catch (error) {
      isUsable = await (refusal === null ? rolledBack(client) : this.isUsableAfter(refusal, client));
      throw error;
    } finally {
      client.release(!isUsable);
    }
  }

  private giveUp(): Error | null {
    const { queueWaitMs, outageWaitMs } = this.settings;
    if (this.outageSince !== null) {
      return performance.now() < this.outageSince + outageWaitMs ? null : unreachable();
    }
    // Of a network that went silent nothing has failed yet.
    if (this.watchdog.isInDoubt) return null;
    // What gathered during an outage has its turn after it.
    if (performance.now() < this.outageEnd + queueWaitMs) return null;
    return new QueueTimeoutError(`No connection became free within QUEUE_WAIT_MS = ${queueWaitMs}`);
  }

  /** Sends again what a fault cut off that passes. A lock is none: what waits for one gives its connection back. */
  private async retry<T>(work: () => Promise<T>): Promise<T> {
    const deadline = performance.now() + this.settings.outageWaitMs;
    let fails = false;
    try {
      for (let wait = FIRST_DELAY_MS; ; wait = Math.min(2 * wait, MAX_DELAY_MS)) {
        const begun = performance.now();
        try {
          if (this.watchdog.hasLost) await this.watchdog.fence();
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
          this.refuse(error, performance.now() - begun);
          if (isForgotten(cause)) this.prepareNoMore(cause);
          if (isStalePlan(cause)) this.watchdog.dropIdle();
          if (isOutage(cause) && !fails) {
            fails = true;
            this.failing += 1;
            this.beginOutage(begun, cause);
          }
          if (performance.now() + wait > deadline) throw unreachable(cause);
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
      throw new StatementTimeoutError(`A statement took over ${timeoutMs} ms`, { cause });
    }
    if (!isPassing(cause)) throw error;
  }

  /** Behind a pooler that keeps no prepared statements each is sent with its text from now on. */
  private prepareNoMore(cause: Fault): void {
    if (!this.keepsPrepared) return;
    this.keepsPrepared = false;
    this.logger.warn(
      `a prepared statement is unknown on its own connection (${described(cause)}): a pooler in between keeps none, so that ` +
        'none is prepared any more; set DATABASE_PREPARED=false, or max_prepared_statements in PgBouncer 1.21 or newer',
    );
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
    this.outageEnd = performance.now();
    this.logger.warn(
      `the database is back after ${Math.round(this.outageEnd - since)} ms; statements were sent again ${this.repeats} times`,
    );
  }
}

function described({ code, message }: Fault): string {
  return code === undefined ? message : `${code} ${message}`;
}

function unreachable(cause?: unknown): DatabaseUnavailableError {
  return new DatabaseUnavailableError('The database cannot be reached', { cause });
}

/** Ends the transaction; false when that fails too. */
function rolledBack(client: PoolClient): Promise<boolean> {
  return client.query('rollback').then(
    () => true,
    () => false,
  );
}

/** What the server said of one request alone, in words for its caller. */
function refused(error: unknown): never {
  const cause = faultOf(error);
  if (isOutOfMemory(cause)) {
    throw new DatabaseUnavailableError('Postgres had too little memory for the statement', { cause });
  }
  if (isTooLarge(cause)) {
    throw new StatementTooLargeError('What is stored or asked for is a value of over 1 GB in Postgres', {
      cause,
    });
  }
  throw error;
}

/** Whether a statement could change something after its connection was lost; a transaction's could. */
function writes(statement?: Asked): boolean {
  const sql = (statement as QueryConfig | undefined)?.text;
  return sql === undefined || /\b(insert\s+into|update|delete\s+from)\b/i.test(sql);
}
