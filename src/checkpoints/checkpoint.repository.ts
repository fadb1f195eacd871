import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
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
  StoredBlob,
  StoredWrite,
  TuplePart,
  ChannelHistory,
  HistoryWrite,
} from './checkpoint.js';
import { fromJsonb, toJsonb } from './jsonb-text.js';
import { MERGE, type Store, StoreStatement } from './store.statement.js';
import { tablesOf } from './tables.js';
import { openChannels } from './thread.repository.js';

/** jsonb: number out of range, text too long, nested too deeply; 22P05 and 22021: a character that text cannot hold. */
const UNSTORABLE = new Set(['22003', '22P02', '22P05', '22021', '54000', '54001']);

/** Of the many forms of a read, these are kept. */
const MAX_SELECTS = 100;

/** One row of a read: the checkpoints of the page, then what belongs to each, told apart by `kind`. */
interface TupleRow {
  n: number;
  kind: 'checkpoint' | TuplePart;
  a: string;
  b: string;
  c: string;
  d: string | null;
  e: string | null;
  f: string;
  g: string;
}

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
  /** The texts of `selectTuples`, by what differs between them. */
  private readonly selects = new Map<string, string>();

  constructor(
    dataSource: DataSource,
    private readonly database: Database,
  ) {
    const tables = tablesOf(dataSource);
    ({ checkpoints: this.checkpoints, blobs: this.blobs, writes: this.writes } = tables);
    const statement = new StoreStatement(tables);
    this.stores = {
      merge: MERGE,
      run: async (stores) => {
        const { sql, parameters } = statement.of(stores);
        await this.database.send(sql, parameters);
      },
    };
  }

  /** The checkpoint with that id, or the latest of the namespace when `checkpointId` is null; null when there is none. */
  async findTuple(
    threadId: string,
    checkpointNs: string,
    checkpointId: string | null,
    parts: TuplePart[],
  ): Promise<CheckpointTuple | null> {
    const only = {
      threadId,
      checkpointNs,
      checkpointId,
      beforeCheckpointId: null,
      metadata: null,
      after: null,
    };
    const page = await this.listCheckpoints(only, 1, parts);
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
    const { sql, parameters } = this.selectTuples(filter, limit, parts);
    const rows = await storable(this.database.query<TupleRow>(filter.threadId ?? '', sql, parameters));
    const tuples = toTuples(rows, parts);
    const more = tuples.length > limit;
    if (more) tuples.length = limit;
    return { tuples, next: more ? (tuples.at(-1)?.key ?? null) : null };
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
    threadId: string,
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

  /**
   * One statement for all that a read answers. The page is found by the primary key in byte order (adopted tables:
   * checkpoints_byte_order_idx), which is why the order names no column that a condition holds constant. Branches that
   * read a CTE never run in parallel, so the rows arrive branch by branch, each in its order.
   */
  private selectTuples(filter: CheckpointFilter, limit: number, parts: TuplePart[]) {
    const parameters: unknown[] = [];
    const bind = (value: unknown) => `$${parameters.push(value)}`;
    const conditions: string[] = [];
    const order: string[] = [];

    if (filter.checkpointId !== null) conditions.push(`checkpoint_id = ${bind(filter.checkpointId)}`);
    else order.push('checkpoint_id collate "C"');
    if (filter.checkpointNs !== null) conditions.push(`checkpoint_ns = ${bind(filter.checkpointNs)}`);
    else order.push('checkpoint_ns collate "C"');
    if (filter.threadId !== null) conditions.push(`thread_id = ${bind(filter.threadId)}`);
    else order.push('thread_id collate "C"');

    if (filter.beforeCheckpointId !== null) {
      conditions.push(`checkpoint_id collate "C" < ${bind(filter.beforeCheckpointId)}`);
    }
    if (filter.after !== null) {
      const { checkpointId, checkpointNs, threadId } = filter.after;
      conditions.push(
        `(checkpoint_id collate "C", checkpoint_ns collate "C", thread_id collate "C")
         < (${[checkpointId, checkpointNs, threadId].map(bind).join(', ')})`,
      );
    }
    if (filter.metadata !== null) {
      const {
        mark,
        texts: [metadata],
      } = toJsonb(filter.metadata);
      conditions.push(
        mark === null
          ? `metadata @> ${bind(metadata)}::jsonb`
          : // Each row has its own mark; a row without one holds no character that this filter asks for.
            `metadata @> replace(${bind(metadata)}, ${bind(mark)}, type)::jsonb`,
      );
    }

    const kind = [conditions.join(' and '), order.join(), limit, parts.join()].join('; ');
    let sql = this.selects.get(kind);
    if (sql === undefined) {
      sql = this.textOf(conditions, order, limit, parts);
      if (this.selects.size < MAX_SELECTS) this.selects.set(kind, sql);
    }
    return { sql, parameters };
  }

  private textOf(conditions: string[], order: string[], limit: number, parts: TuplePart[]): string {
    // One row more than asked for tells whether rows were left out. The limit is part of the text: of a parameter Postgres
    // expects a tenth of the rows, never keeps such a plan, and plans anew for each request, for as long as it reads.
    return `
      with page as materialized (
        select (row_number() over ())::int as n, found.*
          from (select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
                  from ${this.checkpoints}
                 where ${conditions.length > 0 ? conditions.join(' and ') : 'true'}
                 ${order.length > 0 ? `order by ${order.map((column) => `${column} desc`).join(', ')}` : ''}
                 limit ${limit + 1}) as found
      ),
      wanted as (select * from page where n <= ${limit})
      select n, 'checkpoint' as kind, thread_id as a, checkpoint_ns as b, checkpoint_id as c,
             parent_checkpoint_id as d, type as e, checkpoint::text as f, metadata::text as g
        from page
      ${parts.map((part) => `union all (${this.selectPart(part)})`).join('\n')}`;
  }

  private selectPart(part: TuplePart): string {
    switch (part) {
      case 'blobs':
        // Whatever else a client stored as channel_versions, the checkpoint can be read. `limit` and `offset` make
        // what follows look-ups by key; without statistics Postgres would read the whole thread to join it.
        return `
          select n, 'blobs', b.channel, b.version, b.type, encode(b.blob, 'base64'), null, null, null
            from wanted as page
           cross join jsonb_each_text(
                   case jsonb_typeof(checkpoint -> 'channel_versions')
                     when 'object' then checkpoint -> 'channel_versions'
                   end) as v
           cross join lateral (select *
                                 from ${this.blobs} b
                                where b.thread_id = page.thread_id and b.checkpoint_ns = page.checkpoint_ns
                                  and b.channel = v.key and b.version = v.value
                                limit 1) as b`;
      case 'pending_writes':
        return `
          select n, 'pending_writes', w.task_id, w.idx::text, w.channel, w.type,
                 encode(w.blob, 'base64'), w.task_path, null
            from wanted as page
           cross join lateral (select *
                                 from ${this.writes} w
                                where w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
                                  and w.checkpoint_id = page.checkpoint_id
                               offset 0) as w
           order by n, w.task_id collate "C", w.idx`;
      case 'pending_sends':
        return `
          select n, 'pending_sends', w.task_id, w.idx::text, w.channel, w.type,
                 encode(w.blob, 'base64'), w.task_path, null
            from wanted as page
           cross join lateral (select *
                                 from ${this.writes} w
                                where w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
                                  and w.checkpoint_id = page.parent_checkpoint_id and w.channel = '__pregel_tasks'
                               offset 0) as w
           order by n, w.task_path collate "C", w.task_id collate "C", w.idx`;
    }
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

/** Puts the rows of `selectTuples` together. */
function toTuples(rows: TupleRow[], parts: TuplePart[]): CheckpointTuple[] {
  const tuples: CheckpointTuple[] = [];
  for (const row of rows) {
    const tuple = tuples[row.n - 1];
    if (tuple === undefined) {
      const { a: threadId, b: checkpointNs, c: checkpointId, d: parentCheckpointId, e: mark } = row;
      tuples.push({
        key: { threadId, checkpointNs, checkpointId },
        parentCheckpointId,
        checkpoint: fromJsonb(row.f, mark),
        metadata: fromJsonb(row.g, mark),
        ...(parts.includes('blobs') && { blobs: [] }),
        ...(parts.includes('pending_writes') && { pendingWrites: [] }),
        ...(parts.includes('pending_sends') && { pendingSends: [] }),
      });
    } else if (row.kind === 'blobs') tuple.blobs?.push(toBlob(row));
    else (row.kind === 'pending_writes' ? tuple.pendingWrites : tuple.pendingSends)?.push(toWrite(row));
  }
  return tuples;
}

function toBlob({ a: channel, b: version, c: type, d }: TupleRow): StoredBlob {
  return { channel, version, type, base64: d === null ? null : oneLine(d) };
}

function toWrite({ a: taskId, b: idx, c: channel, d: type, e, f: taskPath }: TupleRow): StoredWrite {
  return { taskId, idx: Number(idx), channel, type, base64: oneLine(e ?? ''), taskPath };
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
  return { checkpointId, taskId, idx, channel, type, base64: oneLine(base64 ?? ''), taskPath };
}

/** Postgres breaks Base64 into lines of 76 characters. */
function oneLine(base64: string): string {
  return base64.replaceAll('\n', '');
}
