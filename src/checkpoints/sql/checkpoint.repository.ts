import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Settings } from '../../config/env.js';
import { TooManyBytesError } from '../../database/binary-client.js';
import { Database } from '../../database/database.js';
import { sqlStateOf } from '../../database/faults.js';
import type { Kind } from '../../database/request-queue.js';
import { Metrics } from '../../observability/metrics/metrics.js';
import { ChannelHistories, type HistoriesOf, type HistoryLimits } from './channel-histories.js';
import { LimitExceededError, UnstorableDocumentError } from '../../errors/errors.js';
import type {
  CheckpointFilter,
  CheckpointKey,
  CheckpointPage,
  CheckpointTuple,
  NewCheckpoint,
  PendingWrite,
  TuplePart,
  ChannelHistory,
} from '../domain/checkpoint.js';
import { PutOrder } from './put-order.js';
import { type Read, ReadStatements } from './read.statement.js';
import { DeltaStorage } from './delta-storage.js';
import { StoredValues } from './stored-values.js';
import { RecentValues } from '../blob-storage/recent-values.js';
import { type Deltas, MERGE, type Store, StoreStatement, threadOf } from './store.statement.js';
import { type Tables, tablesOf } from './tables.js';
import type { StoredThreadId } from '../domain/tenant.js';

/** jsonb: number out of range, text too long, nested too deeply; 22P05 and 22021: a character that text cannot hold. */
const UNSTORABLE = new Set(['22003', '22P02', '22P05', '22021', '54000', '54001']);

/** The SQL of single checkpoints. Each method is atomic and on one snapshot, and may be repeated. */
@Injectable()
export class CheckpointRepository {
  private readonly tables: Tables;
  private readonly stores: Kind<Store>;
  private readonly reads: ReadStatements;
  private readonly order: PutOrder;
  private readonly recent: RecentValues;
  /** Null: values are stored whole. */
  private readonly deltas: DeltaStorage | null = null;

  constructor(
    dataSource: DataSource,
    private readonly database: Database,
    settings: Settings,
    private readonly metrics: Metrics,
  ) {
    this.order = new PutOrder(metrics);
    const tables = tablesOf(dataSource);
    this.tables = tables;
    const limits = { pageBytes: settings.answerLimitBytes, tupleBytes: settings.tupleLimitBytes };
    const recent = (this.recent = new RecentValues(
      settings.blobStorage === 'delta' ? settings.deltaMemoryBytes : 0,
    ));
    const values = new StoredValues(
      tables,
      recent,
      (...statement) => this.database.send(...statement, true),
      metrics.deltas,
    );
    this.reads = new ReadStatements(
      tables,
      limits,
      (...statement) => this.database.send(...statement),
      values,
    );
    if (settings.blobStorage === 'delta') {
      this.deltas = new DeltaStorage(
        recent,
        values,
        (threadId, ns, id) => this.find(threadId, ns, id, ['blobs']),
        metrics.deltas,
      );
    }
    metrics.read.deltaMemoryBytes = () => recent.bytes;
    const statement = new StoreStatement(tables);
    this.stores = {
      isStore: true,
      merge: MERGE,
      run: async (stores, mode) => {
        const { sql, parameters } = statement.of(stores, mode);
        const rows = await this.database.send<[thread: StoredThreadId | null, request?: number | null]>(
          sql,
          parameters,
          mode,
        );
        const busy = new Set<StoredThreadId>();
        for (const [id, request] of rows) {
          if (id !== null) busy.add(id);
          else lose(stores[(request ?? 0) - 1]);
        }
        return busy.size === 0 ? undefined : new Set(stores.filter((store) => busy.has(threadOf(store))));
      },
    };
  }

  /** The checkpoint with that id, or the latest of the namespace when `checkpointId` is null; null when there is none. */
  async findTuple(
    threadId: StoredThreadId,
    checkpointNs: string,
    checkpointId: string | null,
    parts: TuplePart[],
  ): Promise<CheckpointTuple | null> {
    const tuple = await this.find(threadId, checkpointNs, checkpointId, parts);
    if (checkpointId === null && tuple !== null) this.deltas?.read(tuple);
    return tuple;
  }

  private async find(
    threadId: StoredThreadId,
    checkpointNs: string,
    checkpointId: string | null,
    parts: TuplePart[],
  ): Promise<CheckpointTuple | null> {
    const filter = {
      threads: threadId,
      checkpointNs,
      checkpointId,
      beforeCheckpointId: null,
      metadata: null,
      after: null,
    };
    const page = await this.read({ filter, limit: 1, parts, isPaged: false });
    return page.tuples[0] ?? null;
  }

  /**
   * At most `limit` checkpoints, newest first: by checkpoint id, then namespace, then thread, each byte by byte, so that
   * the order is total and a page can go on where the last one ended.
   */
  async listCheckpoints(
    filter: CheckpointFilter,
    limit: number,
    parts: TuplePart[],
  ): Promise<CheckpointPage> {
    return this.read({ filter, limit, parts, isPaged: true });
  }

  private async read(read: Read): Promise<CheckpointPage> {
    const { kind, asked } = this.reads.of(read);
    const { threads } = read.filter;
    await storable(this.database.merge(kind, typeof threads === 'string' ? threads : '', asked));
    return asked.page;
  }

  /** Stores the checkpoint and its blobs. Existing blobs are kept; an existing checkpoint keeps its parent. */
  async upsertCheckpoint(checkpoint: NewCheckpoint): Promise<void> {
    const { threadId } = checkpoint.key;
    const send = (planned: NewCheckpoint, deltas?: Deltas) =>
      storable(this.database.merge(this.stores, threadId, { checkpoint: planned, deltas }));
    await (this.deltas === null ? send(checkpoint) : this.deltas.checkpoint(checkpoint, send));
    this.order.look(checkpoint);
  }

  /** Stores the writes, all or none; existing ones are kept. No (task, idx) may occur twice. */
  async insertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.storeWrites(key, writes, 'keep');
  }

  /** Stores the writes, all or none; of existing ones channel, type and blob are replaced. No (task, idx) may occur twice. */
  async upsertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.storeWrites(key, writes, 'replace');
  }

  private async storeWrites(
    key: CheckpointKey,
    writes: PendingWrite[],
    onConflict: 'keep' | 'replace',
  ): Promise<void> {
    const send = (planned: PendingWrite[], deltas?: Deltas) =>
      this.database.merge(this.stores, key.threadId, { key, writes: planned, onConflict, deltas });
    await (this.deltas === null ? send(writes) : this.deltas.writes(key, writes, send));
  }

  /**
   * What each channel of a checkpoint (null: the latest) is rebuilt from, along its parents, the checkpoint itself left
   * out: the writes since the nearest ancestor that stored a value of the channel, those of that ancestor included.
   * @throws LimitExceededError
   */
  async findChannelHistories(of: HistoriesOf, limits: HistoryLimits): Promise<Map<string, ChannelHistory>> {
    try {
      return await this.database.snapshot(of.threadId, (query) =>
        new ChannelHistories(query, this.tables, of, limits, this.recent, this.metrics.deltas).read(),
      );
    } catch (error) {
      // Postgres breaks Base64 into lines, and so one value is over the limit that the answer is not.
      if (!(error instanceof TooManyBytesError)) throw error;
      throw new LimitExceededError('The answer', 'TUPLE_LIMIT_BYTES', limits.bytes);
    }
  }
}

function lose(store: Store | undefined): void {
  if (store?.deltas !== undefined) store.deltas.isLost = true;
}

/** @throws UnstorableDocumentError */
async function storable<T>(statement: Promise<T>): Promise<T> {
  try {
    return await statement;
  } catch (error) {
    if (!UNSTORABLE.has(sqlStateOf(error) ?? '')) throw error;
    throw new UnstorableDocumentError(
      'Postgres cannot hold a document as jsonb: a number or text is too large, or the nesting too deep',
      { cause: error },
    );
  }
}
