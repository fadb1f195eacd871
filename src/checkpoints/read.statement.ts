import type { Parameter } from '../database/binary-client.js';
import type { Kind } from '../database/request-queue.js';
import type {
  CheckpointFilter,
  CheckpointPage,
  CheckpointTuple,
  StoredBlob,
  StoredBytes,
  StoredWrite,
  TuplePart,
} from './checkpoint.js';
import { fromJsonb, toJsonb } from './jsonb-text.js';
import { textArray } from './postgres-array.js';
import { type Tables, isOfTenant } from './tables.js';
import type { StoredThreadId } from './tenant.js';

/** What a request reads. */
export interface Read {
  filter: CheckpointFilter;
  /** At most so many checkpoints, newest first. */
  limit: number;
  parts: TuplePart[];
  /** Whether to find out if there are more. */
  isPaged: boolean;
}

/** A read as its kind takes it: the values of its form, and the answer once there is one. */
export interface Asked {
  values: string[];
  page: CheckpointPage;
}

/** Runs a statement, and gives its rows as arrays. */
type Send = (sql: string, parameters: Parameter[]) => Promise<Row[]>;

/**
 * A checkpoint, `number` being that of its read; or, with a `kind`, what belongs to the n-th one of the answer, and then
 * `number` is the index of a write.
 */
type Row = [
  a: string,
  b: string,
  c: string,
  d: string | null,
  e: string | null,
  f: string,
  g: string,
  number: number,
  n: number,
  kind?: TuplePart | null,
  blob?: StoredBytes | null,
];

/** Of the many forms of a read, these are kept. */
const MAX_FORMS = 100;
/** Longer pages have a statement of their own. */
const MAX_MERGED_LIMIT = 100;
/** What an answer is expected to hold until one is known; of the largest one so much is expected from each next statement. */
const FIRST_BYTES = 64 * 1024;
const NEXT_SHARE = 7 / 8;

/**
 * Statements that answer any number of reads of one form: what differs between the reads are the elements of arrays. With 64
 * agents a merged get-tuple costs Postgres two thirds of one that has a statement of its own, and Node a third of the calls.
 */
export class ReadStatements {
  private readonly kinds = new Map<string, Kind<Asked>>();

  constructor(
    private readonly tables: Tables,
    private readonly send: Send,
  ) {}

  /** The kind that all reads of this form share, and the read. */
  of(read: Read): { kind: Kind<Asked>; asked: Asked } {
    const isMerged = canMerge(read);
    const { conditions, order, values } = formOf(read.filter, isMerged);
    const { limit, parts, isPaged } = read;
    const form = `${conditions.join(' and ')}; ${limit}; ${parts.join()}; ${isPaged}`;
    let kind = this.kinds.get(form);
    if (kind === undefined) {
      const sql = this.textOf(read, conditions, order, isMerged ? values.length : 0);
      kind = isMerged ? this.mergedKind(read, sql) : this.singleKind(read, sql);
      if (this.kinds.size < MAX_FORMS) this.kinds.set(form, kind);
    }
    return { kind, asked: { values, page: { tuples: [], next: null } } };
  }

  private mergedKind(read: Read, sql: string): Kind<Asked> {
    let expectedBytes = FIRST_BYTES;
    return {
      run: async (reads) => {
        const columns = (reads[0]?.values ?? []).map((_, at) =>
          textArray(reads.map(({ values }) => values[at] ?? '')),
        );
        const bytes = fill(read, reads, await this.send(sql, columns));
        expectedBytes = Math.max(bytes, expectedBytes * NEXT_SHARE);
      },
      merge: { slotsOf: () => [], rowsOf: () => read.limit, bytesOf: () => expectedBytes },
    };
  }

  private singleKind(read: Read, sql: string): Kind<Asked> {
    return {
      run: async (reads) => {
        for (const asked of reads) fill(read, [asked], await this.send(sql, asked.values));
      },
    };
  }

  /**
   * The page of each read is found by the primary key in byte order (adopted tables: checkpoints_byte_order_idx), which is why
   * the order names no column that a condition holds constant. A lateral join keeps the order of what it joins, and branches
   * that read a CTE never run in parallel, so the rows arrive branch by branch, each in its order.
   *
   * The limit is part of the text: of a parameter Postgres expects a tenth of the rows, never keeps such a plan, and plans
   * anew for each request, for as long as it reads. Nor may it see the length of an array: hence the selects around them.
   */
  private textOf(
    { limit, parts, isPaged }: Read,
    conditions: string[],
    order: string[],
    arrays: number,
  ): string {
    const numbers = Array.from({ length: arrays }, (_, at) => at + 1);
    const asked =
      arrays === 0
        ? '(select 1 as asked) as v'
        : `unnest(${numbers.map((n) => `(select $${n}::text[])`).join(', ')})
             with ordinality as v (${numbers.map((n) => `v${n}`).join(', ')}, asked)`;
    const columns =
      'thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata';
    const found = `
      select ${columns}
        from ${this.tables.checkpoints}
       where ${conditions.length > 0 ? conditions.join(' and ') : 'true'}
       ${order.length > 0 ? `order by ${order.map((column) => `${column} desc`).join(', ')}` : ''}
       limit ${isPaged ? limit + 1 : limit}`;
    const checkpoints = (from: string, more = '') => `
      select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint::text, metadata::text,
             asked::int ${more}
        from ${from}`;
    // ::text outside, or without a namespace the generic plan takes another index.
    if (parts.length === 0) return checkpoints(`${asked} cross join lateral (${found}) as page`);
    return `
      with page as materialized (
        select (row_number() over ())::int as n, asked, found.*
          from ${asked}
         cross join lateral (select (row_number() over ())::int as k, * from (${found}) as found) as found
      ),
      wanted as (select * from page where k <= ${limit})
      ${checkpoints('page', ', n, null, null::bytea')}
      ${parts.map((part) => `union all (${this.selectPart(part)})`).join('\n')}`;
  }

  private selectPart(part: TuplePart): string {
    switch (part) {
      case 'blobs':
        // Whatever else a client stored as channel_versions, the checkpoint can be read. `limit` and `offset` make
        // what follows look-ups by key; without statistics Postgres would read the whole thread to join it.
        return `
          select b.channel, b.version, b.type, null, null, null, null, null, n, 'blobs', b.blob
            from wanted as page
           cross join jsonb_each_text(
                   case jsonb_typeof(checkpoint -> 'channel_versions')
                     when 'object' then checkpoint -> 'channel_versions'
                   end) as v
           cross join lateral (select *
                                 from ${this.tables.blobs} b
                                where b.thread_id = page.thread_id and b.checkpoint_ns = page.checkpoint_ns
                                  and b.channel = v.key and b.version = v.value
                                limit 1) as b`;
      case 'pending_writes':
        return `
          select w.task_id, w.channel, w.task_path, w.type, null, null, null, w.idx, n, 'pending_writes', w.blob
            from wanted as page
           cross join lateral (select *
                                 from ${this.tables.writes} w
                                where w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
                                  and w.checkpoint_id = page.checkpoint_id
                               offset 0) as w
           order by n, w.task_id collate "C", w.idx`;
      case 'pending_sends':
        return `
          select w.task_id, w.channel, w.task_path, w.type, null, null, null, w.idx, n, 'pending_sends', w.blob
            from wanted as page
           cross join lateral (select *
                                 from ${this.tables.writes} w
                                where w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
                                  and w.checkpoint_id = page.parent_checkpoint_id and w.channel = '__pregel_tasks'
                               offset 0) as w
           order by n, w.task_path collate "C", w.task_id collate "C", w.idx`;
    }
  }
}

/** A filter may have to read for long, and not all threads' order is a thread's. */
function canMerge({ filter, limit }: Read): boolean {
  return typeof filter.threads === 'string' && filter.metadata === null && limit <= MAX_MERGED_LIMIT;
}

/** What tells one form from another, and the values that a read brings. */
function formOf(filter: CheckpointFilter, isMerged: boolean) {
  const values: string[] = [];
  const bind = (value: string) => `${isMerged ? 'v.v' : '$'}${values.push(value)}`;
  const conditions: string[] = [];
  const order: string[] = [];

  if (filter.checkpointId !== null) conditions.push(`checkpoint_id = ${bind(filter.checkpointId)}`);
  else order.push('checkpoint_id collate "C"');
  if (filter.checkpointNs !== null) conditions.push(`checkpoint_ns = ${bind(filter.checkpointNs)}`);
  else order.push('checkpoint_ns collate "C"');
  if (typeof filter.threads === 'string') conditions.push(`thread_id = ${bind(filter.threads)}`);
  else {
    conditions.push(isOfTenant(filter.threads, bind));
    order.push('thread_id collate "C"');
  }

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
  return { conditions, order, values };
}

/** Puts the pages of an answer together; returns how many characters of documents and Base64 the longest one has. */
function fill({ parts, limit, isPaged }: Read, reads: Asked[], rows: Row[]): number {
  const tuples: { tuple: CheckpointTuple; asked: number }[] = [];
  const lengths = reads.map(() => 0);
  for (const row of rows) {
    const kind = row[9] ?? null;
    if (kind === null) {
      const asked = row[7] - 1;
      const tuple = toTuple(row, parts);
      tuples.push({ tuple, asked });
      reads[asked]?.page.tuples.push(tuple);
      lengths[asked] = (lengths[asked] ?? 0) + tuple.checkpoint.length + tuple.metadata.length;
      continue;
    }
    const { tuple, asked } = tuples[row[8] - 1] ?? {};
    if (tuple === undefined || asked === undefined) continue;
    if (kind === 'blobs') tuple.blobs?.push(toBlob(row));
    else (kind === 'pending_writes' ? tuple.pendingWrites : tuple.pendingSends)?.push(toWrite(row));
    lengths[asked] = (lengths[asked] ?? 0) + (row[10]?.length ?? 0);
  }
  if (isPaged) for (const { page } of reads) cut(page, limit);
  return Math.max(...lengths);
}

function toTuple(
  [threadId, checkpointNs, checkpointId, parent, mark, checkpoint, metadata]: Row,
  parts: TuplePart[],
): CheckpointTuple {
  const tuple: CheckpointTuple = {
    key: { threadId: threadId as StoredThreadId, checkpointNs, checkpointId },
    parentCheckpointId: parent,
    checkpoint: fromJsonb(checkpoint, mark),
    metadata: fromJsonb(metadata, mark),
  };
  if (parts.includes('blobs')) tuple.blobs = [];
  if (parts.includes('pending_writes')) tuple.pendingWrites = [];
  if (parts.includes('pending_sends')) tuple.pendingSends = [];
  return tuple;
}

function toBlob(row: Row): StoredBlob {
  const [channel, version, type] = row;
  return { channel, version, type, blob: row[10] ?? null };
}

function toWrite(row: Row): StoredWrite {
  const [taskId, channel, taskPath, type] = row;
  return { taskId, idx: row[7], channel, type, blob: row[10] ?? '', taskPath };
}

/** The row beyond the limit only tells that there are more. */
function cut(page: CheckpointPage, limit: number): void {
  if (page.tuples.length <= limit) return;
  page.tuples.length = limit;
  page.next = page.tuples.at(-1)?.key ?? null;
}
