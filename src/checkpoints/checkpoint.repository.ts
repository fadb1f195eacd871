import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Database, sqlStateOf } from '../database/database.js';
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
import { byteaArray, textArray } from './postgres-array.js';
import { tablesOf } from './tables.js';
import { openChannels } from './thread.repository.js';

/** jsonb: number out of range, text too long, nested too deeply; 22P05 and 22021: a character that text cannot hold. */
const UNSTORABLE = new Set(['22003', '22P02', '22P05', '22021', '54000', '54001']);

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

/** Writes of one request. */
interface NewWrites {
  key: CheckpointKey;
  writes: PendingWrite[];
}

/** The SQL of single checkpoints. Each method is one statement, hence atomic and on one snapshot, and may be repeated. */
@Injectable()
export class CheckpointRepository {
  private readonly checkpoints: string;
  private readonly blobs: string;
  private readonly writes: string;
  private readonly puts: Kind<NewCheckpoint> = {
    run: (checkpoints) => this.upsertCheckpoints(checkpoints),
    merge: {
      // Checkpoints of one namespace may have blobs in common.
      slotsOf: ({ key }) => [key.checkpointNs],
      rowsOf: ({ blobs }) => 1 + blobs.length,
      bytesOf: ({ checkpoint, metadata, blobs }) =>
        blobs.reduce((sum, { blob }) => sum + (blob?.length ?? 0), checkpoint.length + metadata.length),
    },
  };
  private readonly inserts = this.kindOfWrites('do nothing');
  private readonly upserts = this.kindOfWrites(
    'do update set channel = excluded.channel, type = excluded.type, blob = excluded.blob',
  );

  constructor(
    dataSource: DataSource,
    private readonly database: Database,
  ) {
    ({ checkpoints: this.checkpoints, blobs: this.blobs, writes: this.writes } = tablesOf(dataSource));
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
    await storable(this.database.merge(this.puts, checkpoint.key.threadId, checkpoint));
  }

  /** Stores the writes, all or none; existing ones are kept. No (task, idx) may occur twice. */
  async insertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.database.merge(this.inserts, key.threadId, { key, writes });
  }

  /** Stores the writes, all or none; of existing ones channel, type and blob are replaced. No (task, idx) may occur twice. */
  async upsertWrites(key: CheckpointKey, writes: PendingWrite[]): Promise<void> {
    await this.database.merge(this.upserts, key.threadId, { key, writes });
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
    const rows = await this.database.query<HistoryRow>(
      threadId,
      // `open` are the channels without a stored value so far, before and after each ancestor. union, not union all, so
      // that a circle of parents ends. The walk goes by primary key, a row an ancestor, whatever the thread's length.
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
           join ${this.checkpoints} c
             on c.thread_id = $1 and c.checkpoint_ns = $2 and c.checkpoint_id = target.parent_checkpoint_id
          union
         select c.checkpoint_id, c.parent_checkpoint_id, chain.open, ${openChannels('chain.open', this.blobs)}
           from chain
           join ${this.checkpoints} c
             on c.thread_id = $1 and c.checkpoint_ns = $2 and c.checkpoint_id = chain.parent_checkpoint_id
          where cardinality(chain.open) > 0
       ),
       ancestor as materialized (select row_number() over () as n, * from chain)
       select 'seed' as kind, seeded.channel, null as checkpoint_id, null as task_id, null as idx, b.type,
              encode(b.blob, 'base64') as base64, null as task_path,
              (c.checkpoint -> 'channel_values' -> seeded.channel)::text as value, c.type as mark
         from ancestor a
        cross join lateral (select unnest(a.open_before) except select unnest(a.open)) as seeded (channel)
         join ${this.checkpoints} c
           on c.thread_id = $1 and c.checkpoint_ns = $2 and c.checkpoint_id = a.checkpoint_id
         left join ${this.blobs} b
           on b.thread_id = $1 and b.checkpoint_ns = $2 and b.channel = seeded.channel
          and b.version = c.checkpoint -> 'channel_versions' ->> seeded.channel and b.type <> 'empty'
        union all
       (select 'write', w.channel, w.checkpoint_id, w.task_id, w.idx, w.type, encode(w.blob, 'base64'), w.task_path,
               null, null
          from ancestor a
          join ${this.writes} w
            on w.thread_id = $1 and w.checkpoint_ns = $2 and w.checkpoint_id = a.checkpoint_id
           and w.channel = any(a.open_before)
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

  private async upsertCheckpoints(checkpoints: NewCheckpoint[]): Promise<void> {
    // In key order, and checkpoints before blobs, so that two statements lock the same rows in the same order. Here and not
    // by `order by`, which would carry the blobs through Postgres's sort.
    const rows = checkpoints
      .toSorted((a, b) => compareKeys(a.key, b.key))
      .map((row) => ({ ...row, ...jsonbOf(row) }));
    const blobs = rows.flatMap(({ key, blobs: own }) =>
      own
        .toSorted((a, b) => compare(a.channel, b.channel) || compare(a.version, b.version))
        .map((blob) => ({ key, ...blob })),
    );
    await this.database.send(
      `with stored as (
         insert into ${this.checkpoints}
           (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
         select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, mark, checkpoint::jsonb, metadata::jsonb
           from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             as c (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, mark, checkpoint, metadata)
             on conflict (thread_id, checkpoint_ns, checkpoint_id) do update
            set type = excluded.type, checkpoint = excluded.checkpoint, metadata = excluded.metadata
         returning 1
       )
       insert into ${this.blobs} (thread_id, checkpoint_ns, channel, version, type, blob)
       select b.*
         from unnest($8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[])
           as b (thread_id, checkpoint_ns, channel, version, type, blob)
           -- Makes the checkpoints go first.
        where (select count(*) from stored) > 0
           -- Never true, but locks the row that is there: see ThreadRepository.deleteOrphanedBlobs.
           on conflict (thread_id, checkpoint_ns, channel, version) do update set type = excluded.type where false`,
      [
        ...keyArrays(rows),
        textArray(rows.map((row) => row.parentCheckpointId)),
        textArray(rows.map((row) => row.mark)),
        textArray(rows.map((row) => row.checkpoint)),
        textArray(rows.map((row) => row.metadata)),
        textArray(blobs.map((row) => row.key.threadId)),
        textArray(blobs.map((row) => row.key.checkpointNs)),
        textArray(blobs.map((row) => row.channel)),
        textArray(blobs.map((row) => row.version)),
        textArray(blobs.map((row) => row.type)),
        byteaArray(blobs.map((row) => row.blob)),
      ],
    );
  }

  private kindOfWrites(onConflict: string): Kind<NewWrites> {
    return {
      run: (requests) => this.storeWrites(requests, onConflict),
      merge: {
        slotsOf: ({ key, writes }) =>
          [...new Set(writes.map((write) => write.taskId))].map((taskId) =>
            [key.checkpointNs, key.checkpointId, taskId].join('\0'),
          ),
        rowsOf: ({ writes }) => writes.length,
        bytesOf: ({ writes }) => writes.reduce((sum, { blob }) => sum + blob.length, 0),
      },
    };
  }

  private async storeWrites(requests: NewWrites[], onConflict: string): Promise<void> {
    // In key order, so that two statements lock the same rows in the same order.
    const rows = requests
      .flatMap(({ key, writes }) => writes.map((write) => ({ key, ...write })))
      .sort((a, b) => compareKeys(a.key, b.key) || compare(a.taskId, b.taskId) || a.idx - b.idx);
    await this.database.send(
      `insert into ${this.writes}
         (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, task_path, blob)
       select w.*
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[], $9::bytea[])
           as w (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, task_path, blob)
           on conflict (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ${onConflict}`,
      [
        ...keyArrays(rows),
        textArray(rows.map((row) => row.taskId)),
        rows.map((row) => row.idx),
        textArray(rows.map((row) => row.channel)),
        textArray(rows.map((row) => row.type)),
        textArray(rows.map((row) => row.taskPath)),
        byteaArray(rows.map((row) => row.blob)),
      ],
    );
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

    // One row more than asked for tells whether rows were left out.
    const sql = `
      with page as materialized (
        select (row_number() over ())::int as n, found.*
          from (select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
                  from ${this.checkpoints}
                 where ${conditions.length > 0 ? conditions.join(' and ') : 'true'}
                 ${order.length > 0 ? `order by ${order.map((column) => `${column} desc`).join(', ')}` : ''}
                 limit ${bind(limit + 1)}) as found
      ),
      wanted as (select * from page where n <= ${bind(limit)})
      select n, 'checkpoint' as kind, thread_id as a, checkpoint_ns as b, checkpoint_id as c,
             parent_checkpoint_id as d, type as e, checkpoint::text as f, metadata::text as g
        from page
      ${parts.map((part) => `union all (${this.selectPart(part)})`).join('\n')}`;
    return { sql, parameters };
  }

  private selectPart(part: TuplePart): string {
    switch (part) {
      case 'blobs':
        // Whatever else a client stored as channel_versions, the checkpoint can be read.
        return `
          select n, 'blobs', b.channel, b.version, b.type, encode(b.blob, 'base64'), null, null, null
            from wanted as page
           cross join jsonb_each_text(
                   case jsonb_typeof(checkpoint -> 'channel_versions')
                     when 'object' then checkpoint -> 'channel_versions'
                   end) as v
            join ${this.blobs} b
              on b.thread_id = page.thread_id and b.checkpoint_ns = page.checkpoint_ns
             and b.channel = v.key and b.version = v.value`;
      case 'pending_writes':
        return `
          select n, 'pending_writes', w.task_id, w.idx::text, w.channel, w.type,
                 encode(w.blob, 'base64'), w.task_path, null
            from wanted as page
            join ${this.writes} w
              on w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
             and w.checkpoint_id = page.checkpoint_id
           order by n, w.task_id collate "C", w.idx`;
      case 'pending_sends':
        return `
          select n, 'pending_sends', w.task_id, w.idx::text, w.channel, w.type,
                 encode(w.blob, 'base64'), w.task_path, null
            from wanted as page
            join ${this.writes} w
              on w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
             and w.checkpoint_id = page.parent_checkpoint_id and w.channel = '__pregel_tasks'
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

function jsonbOf({ checkpoint, metadata }: NewCheckpoint) {
  const { mark, texts } = toJsonb(checkpoint, metadata);
  return { mark, checkpoint: texts[0], metadata: texts[1] };
}

function keyArrays(rows: { key: CheckpointKey }[]): Buffer[] {
  return [
    textArray(rows.map(({ key }) => key.threadId)),
    textArray(rows.map(({ key }) => key.checkpointNs)),
    textArray(rows.map(({ key }) => key.checkpointId)),
  ];
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

function compareKeys(a: CheckpointKey, b: CheckpointKey): number {
  return (
    compare(a.threadId, b.threadId) ||
    compare(a.checkpointNs, b.checkpointNs) ||
    compare(a.checkpointId, b.checkpointId)
  );
}

/** Any total order does, as long as it is the same in every instance. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
