import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Settings } from '../config/env.js';
import { Database } from '../database/database.js';
import { sqlStateOf } from '../database/faults.js';
import type { Kind } from '../database/request-queue.js';
import { UnstorableDocumentError } from './checkpoint.errors.js';
import type {
  CheckpointFilter,
  CheckpointKey,
  CheckpointPage,
  CheckpointTuple,
  NewCheckpoint,
  PendingWrite,
  TuplePart,
  ChannelHistory,
  HistoryWrite,
} from './checkpoint.js';
import { fromJsonb } from './jsonb-text.js';
import { type Read, ReadStatements } from './read.statement.js';
import { MERGE, type Store, StoreStatement, threadOf } from './store.statement.js';
import { tablesOf } from './tables.js';
import type { StoredThreadId } from './tenant.js';
import { openChannels } from './thread.repository.js';

/** jsonb: number out of range, text too long, nested too deeply; 22P05 and 22021: a character that text cannot hold. */
const UNSTORABLE = new Set(['22003', '22P02', '22P05', '22021', '54000', '54001']);

/** A row of `findChannelHistories`: the seed of a channel, or one of its writes. */
interface HistoryRow {
  kind: 'seed' | 'write';
  channel: string;
  checkpoint_id: string;
  task_id: string;
  idx: number;
  type: string | null;
  base64: string | null;
  task_path: string;
  value: string;
  mark: string | null;
}

/** The SQL of single checkpoints. Each method is one statement, hence atomic and on one snapshot, and may be repeated. */
@Injectable()
export class CheckpointRepository {
  private readonly checkpoints: string;
  private readonly blobs: string;
  private readonly writes: string;
  private readonly stores: Kind<Store>;
  private readonly reads: ReadStatements;

  constructor(
    dataSource: DataSource,
    private readonly database: Database,
    settings: Settings,
  ) {
    const tables = tablesOf(dataSource);
    ({ checkpoints: this.checkpoints, blobs: this.blobs, writes: this.writes } = tables);
    const limits = { pageBytes: settings.answerLimitBytes, tupleBytes: settings.tupleLimitBytes };
    this.reads = new ReadStatements(tables, limits, (...statement) => this.database.send(...statement));
    const statement = new StoreStatement(tables);
    this.stores = {
      isStore: true,
      merge: MERGE,
      run: async (stores, mode) => {
        const { sql, parameters } = statement.of(stores, mode);
        const busy = new Set((await this.database.send<[StoredThreadId]>(sql, parameters)).map(([id]) => id));
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
    await storable(this.database.merge(this.stores, checkpoint.key.threadId, { checkpoint }));
  }

  /** Stores the writes, all or none; existing ones are kept. No (task, idx) may occur twice. */
  async insertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.database.merge(this.stores, key.threadId, { key, writes, onConflict: 'keep' });
  }

  /** Stores the writes, all or none; of existing ones channel, type and blob are replaced. No (task, idx) may occur twice. */
  async upsertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.database.merge(this.stores, key.threadId, { key, writes, onConflict: 'replace' });
  }

  /**
   * What each channel of a checkpoint (null: the latest) is rebuilt from, along its parents, the checkpoint itself left
   * out: the writes since the nearest ancestor that stored a value of the channel, those of that ancestor included.
   */
  async findChannelHistories(
    threadId: StoredThreadId,
    checkpointNs: string,
    checkpointId: string | null,
    channels: string[],
  ): Promise<Map<string, ChannelHistory>> {
    const checkpoint = (id: string) =>
      `select * from ${this.checkpoints} where thread_id = $1 and checkpoint_ns = $2 and checkpoint_id = ${id} limit 1`;
    const rows = await this.database.query<HistoryRow>(
      threadId,
      // `open` are the channels without a stored value so far, before and after each ancestor. union, not union all, so
      // that a circle of parents ends. The walk goes by primary key, a row an ancestor, whatever the thread's length: `limit`
      // and `offset` keep it so, where Postgres, without statistics, would read the thread for each step.
      `with recursive target as (
         select parent_checkpoint_id
           from ${this.checkpoints}
          where thread_id = $1 and checkpoint_ns = $2 ${checkpointId === null ? '' : 'and checkpoint_id = $4'}
          order by checkpoint_id collate "C" desc
          limit 1
       ),
       chain as (
         select c.checkpoint_id, c.parent_checkpoint_id, $3::text[] as open_before,
                ${openChannels('$3::text[]', this.blobs)} as open
           from target
          cross join lateral (${checkpoint('target.parent_checkpoint_id')}) as c
          union
         select c.checkpoint_id, c.parent_checkpoint_id, chain.open, ${openChannels('chain.open', this.blobs)}
           from chain
          cross join lateral (${checkpoint('chain.parent_checkpoint_id')}) as c
          where cardinality(chain.open) > 0
       ),
       ancestor as materialized (select row_number() over () as n, * from chain)
       select 'seed' as kind, seeded.channel, null as checkpoint_id, null as task_id, null as idx, b.type,
              encode(b.blob, 'base64') as base64, null as task_path,
              (c.checkpoint -> 'channel_values' -> seeded.channel)::text as value, c.type as mark
         from ancestor a
        cross join lateral (select unnest(a.open_before) except select unnest(a.open)) as seeded (channel)
        cross join lateral (${checkpoint('a.checkpoint_id')}) as c
         left join lateral (select *
                              from ${this.blobs}
                             where thread_id = $1 and checkpoint_ns = $2 and channel = seeded.channel
                               and version = c.checkpoint -> 'channel_versions' ->> seeded.channel and type <> 'empty'
                             limit 1) as b on true
        union all
       (select 'write', w.channel, w.checkpoint_id, w.task_id, w.idx, w.type, encode(w.blob, 'base64'), w.task_path,
               null, null
          from ancestor a
         cross join lateral (select *
                               from ${this.writes}
                              where thread_id = $1 and checkpoint_ns = $2 and checkpoint_id = a.checkpoint_id
                                and channel = any(a.open_before)
                             offset 0) as w
         order by a.n desc, w.task_id collate "C", w.idx)`,
      [threadId, checkpointNs, channels, ...(checkpointId === null ? [] : [checkpointId])],
    );
    const histories = new Map<string, ChannelHistory>();
    for (const channel of channels) histories.set(channel, { seed: null, writes: [] });
    for (const row of rows) {
      const history = histories.get(row.channel);
      if (history === undefined) continue;
      if (row.kind === 'seed') history.seed = toSeed(row);
      else history.writes.push(toHistoryWrite(row));
    }
    return histories;
  }
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

/** A blob wins: beside one, an inline `true` is only its marker. */
function toSeed({ type, base64, value, mark }: HistoryRow): NonNullable<ChannelHistory['seed']> {
  if (type === null) return { value: fromJsonb(value, mark) };
  return { type, base64: base64 === null ? null : oneLine(base64) };
}

function toHistoryWrite(row: HistoryRow): HistoryWrite {
  const {
    checkpoint_id: checkpointId,
    task_id: taskId,
    idx,
    channel,
    type,
    base64,
    task_path: taskPath,
  } = row;
  return { checkpointId, taskId, idx, channel, type, blob: oneLine(base64 ?? ''), taskPath };
}

/** Postgres breaks Base64 into lines of 76 characters. */
function oneLine(base64: string): string {
  return base64.replaceAll('\n', '');
}
