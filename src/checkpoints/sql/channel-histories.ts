import type { DeltaMetrics } from '../../observability/metrics/metrics.js';
import type { Query } from '../../database/database.js';
import { DatabaseUnavailableError, LimitExceededError } from '../../errors/errors.js';
import type { ChannelHistory, HistoryWrite } from '../domain/checkpoint.js';
import { checkpointBy, hasNoValue, STORED_VALUES } from './delta-chain.js';
import { fromJsonb } from './jsonb-text.js';
import {
  bytesOfValue,
  type Holder,
  isElsewhere,
  placesOf,
  type RecordRow,
  resolvePlaces,
} from './log-records.js';
import type { RecentValues } from '../blob-storage/recent-values.js';
import type { Tables } from './tables.js';
import type { StoredThreadId } from '../domain/tenant.js';

/** Whose histories: those of a checkpoint, or with null of the latest one. */
export interface HistoriesOf {
  threadId: StoredThreadId;
  checkpointNs: string;
  checkpointId: string | null;
  channels: string[];
}

/** What the histories of one request may take. */
export interface HistoryLimits {
  /** As they are answered. */
  bytes: number;
  milliseconds: number;
}

/** Ancestors that a statement looks at: few where a value is near, and never so many that it takes long or much memory. */
const FIRST_STEP = 16;
const STEP_GROWTH = 4;
const MAX_STEP = 1024;
/** Ancestors and writes of a request. Ids are kept to find a circle of parents, some 40 MB, and writes take some 600 bytes each. */
const MAX_ROWS = 250_000;
/** What stands around a write or a seed in JSON, at least. */
const WRITE_BYTES = 100;

interface AncestorRow {
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  /** Numbers of the open channels, from 1 on, that the ancestor stores a value of. */
  seeded: number[];
}

/** A record of a log, as `query` gives it. */
interface RecordColumns {
  n: number;
  at: number;
  delta: Buffer;
  is_continued: number;
}

function rowOf({ n, at, delta, is_continued: isContinued }: RecordColumns): RecordRow {
  return [n, at, delta, isContinued];
}

/** The sums of all parts, or one of them: a write of the n-th ancestor, or the seed of a channel. */
interface PartRow {
  bytes: number | null;
  rows: number | null;
  n: number;
  channel: string;
  task_id: string | null;
  idx: number;
  type: string | null;
  base64: string | null;
  task_path: string;
  value: string;
  mark: string | null;
}

/** The part of a chain that one statement walked: up to which of the ancestors each channel is followed, and its seeds. */
interface Step {
  ids: string[];
  channels: string[];
  upTo: number[];
  seeds: { n: number; channel: string }[];
}

/**
 * Reads the histories in steps along the parents, from one snapshot: `query` is of a transaction that has one. In Postgres a
 * step takes memory for its ancestors' ids and one document, whatever the length of the chain; here the answer grows up to its
 * limit. @throws LimitExceededError, DatabaseUnavailableError, what `query` throws
 */
export class ChannelHistories {
  private readonly began = performance.now();
  private readonly seen = new Set<string>();
  private readonly histories = new Map<string, ChannelHistory>();
  private bytes = 0;
  private rows = 0;

  constructor(
    private readonly query: Query,
    private readonly tables: Tables,
    private readonly of: HistoriesOf,
    private readonly limits: HistoryLimits,
    private readonly recent: RecentValues,
    private readonly metrics: DeltaMetrics,
  ) {
    for (const channel of of.channels) this.histories.set(channel, { seed: null, writes: [] });
  }

  async read(): Promise<Map<string, ChannelHistory>> {
    let open = this.of.channels;
    let next: string | null = null;
    for (let size = FIRST_STEP; open.length > 0; size = Math.min(size * STEP_GROWTH, MAX_STEP)) {
      const rows = await this.walk(next, open, size);
      const { step, stillOpen } = this.stepOf(rows, open);
      if (step.ids.length > 0) await this.fetch(step);
      next = rows.at(-1)?.parent_checkpoint_id ?? null;
      if (rows.length < size || step.ids.length < size || next === null) break;
      open = stillOpen;
      this.checkTime();
    }
    for (const { writes } of this.histories.values()) writes.reverse();
    await this.resolve();
    return this.histories;
  }

  /** The next ancestors, from `start` on; with null from the parent of the checkpoint whose histories they are. */
  private walk(start: string | null, open: string[], size: number): Promise<AncestorRow[]> {
    const { threadId, checkpointNs, checkpointId } = this.of;
    const values: unknown[] = [threadId, checkpointNs, open, size];
    const bind = (value: string) => `$${values.push(value)}`;
    const first =
      start !== null
        ? bind(start)
        : `(select parent_checkpoint_id
              from ${this.tables.checkpoints}
             where thread_id = $1 and checkpoint_ns = $2 ${checkpointId === null ? '' : `and checkpoint_id = ${bind(checkpointId)}`}
             order by checkpoint_id collate "C" desc
             limit 1)`;
    const at = (id: string, columns: string) => checkpointBy(this.tables, columns, '$1', '$2', id);
    const link = 'found.checkpoint_id, found.parent_checkpoint_id';
    return this.query<AncestorRow>(
      `with recursive ancestor as (
         select 1 as n, found.* from (${at(first, link)}) as found
          union all
         select ancestor.n + 1, found.*
           from ancestor
          cross join lateral (${at('ancestor.parent_checkpoint_id', link)}) as found
          where ancestor.n < $4
       )
       select ancestor.checkpoint_id, ancestor.parent_checkpoint_id,
              array(select wanted.number::int
                      from pg_catalog.unnest($3::text[]) with ordinality as wanted (channel, number)
                     where not ${hasNoValue(this.tables, 'stored', '$1', '$2', 'wanted.channel')}) as seeded
         from ancestor
        cross join lateral (${at('ancestor.checkpoint_id', STORED_VALUES)} offset 0) as stored
        order by ancestor.n`,
      values,
    );
  }

  private stepOf(rows: AncestorRow[], open: string[]): { step: Step; stillOpen: string[] } {
    const seededAt = new Map<string, number>();
    const ids: string[] = [];
    for (const { checkpoint_id: id, seeded } of rows) {
      if (this.seen.has(id) || seededAt.size === open.length) break;
      this.seen.add(id);
      ids.push(id);
      for (const number of seeded) {
        const channel = open[number - 1];
        if (channel !== undefined && !seededAt.has(channel)) seededAt.set(channel, ids.length);
      }
    }
    this.count(ids.length);
    const upTo = open.map((channel) => seededAt.get(channel) ?? ids.length);
    const seeds = [...seededAt].map(([channel, n]) => ({ channel, n }));
    return {
      step: { ids, channels: open, upTo, seeds },
      stillOpen: open.filter((channel) => !seededAt.has(channel)),
    };
  }

  /** Adds the writes and seeds of a step, unless they are too many. */
  private async fetch({ ids, channels, upTo, seeds }: Step): Promise<void> {
    const { threadId, checkpointNs } = this.of;
    const { blobs, writes } = this.tables;
    const parts = `
      select a.n::int, w.channel, w.task_id, w.idx, w.type, w.blob, w.task_path, null as value, null as mark
        from pg_catalog.unnest($3::text[]) with ordinality as a (id, n)
       cross join lateral (select *
                             from ${writes}
                            where thread_id = $1 and checkpoint_ns = $2 and checkpoint_id = a.id
                              and channel = any($4::text[])
                            order by task_id collate "C", idx
                           offset 0) as w
       where a.n <= ($5::int[])[pg_catalog.array_position($4::text[], w.channel)]
       union all
      select s.n, s.channel, null, null, b.type, b.blob, null,
             case when b.type is null then (stored.channel_values -> s.channel)::text end, stored.mark
        from rows from (pg_catalog.unnest($6::int[]), pg_catalog.unnest($7::text[])) as s (n, channel)
       cross join lateral (${checkpointBy(this.tables, `${STORED_VALUES}, found.type as mark`, '$1', '$2', '($3::text[])[s.n]')}
                           offset 0) as stored
        left join lateral (select *
                             from ${blobs}
                            where thread_id = $1 and checkpoint_ns = $2 and channel = s.channel
                              and version = stored.channel_versions ->> s.channel and type <> 'empty'
                            limit 1) as b on true`;
    const [sum, ...rows] = await this.query<PartRow>(
      // The bytes first, of which blobs need not be read: what is over the limit is not.
      `with total as materialized (
         select coalesce(pg_catalog.sum(${WRITE_BYTES} + coalesce(${bytesOfValue('type', 'blob')}, 0) / 3 * 4
                    + coalesce(pg_catalog.octet_length(value), 0) + coalesce(pg_catalog.octet_length(task_id), 0)
                    + pg_catalog.octet_length(channel) + coalesce(pg_catalog.octet_length(task_path), 0)
                    + coalesce(pg_catalog.octet_length(type), 0)), 0)::float8 as bytes,
                pg_catalog.count(*)::int as rows
           from (${parts}) as part
       )
       select bytes, rows, null::int as n, null as channel, null as task_id, null::int as idx, null as type, null as base64,
              null as task_path, null as value, null as mark
         from total
        union all
       select null, null, n, channel, task_id, idx, type, pg_catalog.encode(blob, 'base64'), task_path, value, mark
         from (${parts}) as part
        where (select bytes <= $8 and rows <= $9 from total)`,
      [
        ...[threadId, checkpointNs, ids, channels, upTo],
        ...[seeds.map(({ n }) => n), seeds.map(({ channel }) => channel), this.limits.bytes - this.bytes],
        MAX_ROWS - this.rows,
      ],
    );
    this.bytes += sum?.bytes ?? 0;
    if (this.bytes > this.limits.bytes) {
      throw new LimitExceededError('The answer', 'TUPLE_LIMIT_BYTES', this.limits.bytes);
    }
    this.count(sum?.rows ?? 0);
    this.add(rows, ids);
  }

  /** Puts the values in the place of those that are differences to others. From the same snapshot, so that their logs are there. */
  private async resolve(): Promise<void> {
    const { threadId } = this.of;
    const holders: { holder: Holder; set: (type: string, base64: string) => void }[] = [];
    const add = (
      type: string | null,
      blob: string | null,
      name: string,
      set: (type: string, base64: string) => void,
    ) => {
      const row = { type, blob };
      if (isElsewhere(row))
        holders.push({ holder: { threadId, row, name: `${name} of thread ${threadId}` }, set });
    };
    for (const [channel, history] of this.histories) {
      const { seed, writes } = history;
      if (seed !== null && 'type' in seed) {
        add(
          seed.type,
          seed.base64,
          `a seed of channel ${channel}`,
          (type, base64) => (history.seed = { type, base64 }),
        );
      }
      for (const write of writes) {
        add(
          write.type,
          write.blob,
          `write ${write.idx} of task ${write.taskId} of checkpoint ${write.checkpointId}`,
          (type, blob) => Object.assign(write, { type, blob }),
        );
      }
    }
    if (holders.length === 0) return;
    await resolvePlaces(
      placesOf(holders.map(({ holder }) => holder)),
      this.tables,
      this.recent,
      async (sql, parameters) => (await this.query<RecordColumns>(sql, parameters)).map(rowOf),
      this.metrics,
    );
    for (const { holder, set } of holders) {
      const { type, blob } = holder.row;
      set(type ?? '', typeof blob === 'string' ? blob : (blob?.toString('base64') ?? ''));
    }
  }

  private count(rows: number): void {
    this.rows += rows;
    if (this.rows > MAX_ROWS)
      throw new LimitExceededError('The number of ancestors and writes', 'of a history', MAX_ROWS);
  }

  /** The writes are kept newest first until all are there. */
  private add(rows: PartRow[], ids: string[]): void {
    const byAncestor = ids.map((): PartRow[] => []);
    for (const row of rows) {
      const history = this.histories.get(row.channel);
      if (row.task_id !== null) byAncestor[row.n - 1]?.push(row);
      else if (history !== undefined) history.seed = toSeed(row);
    }
    for (const [at, id] of ids.entries()) {
      for (const row of (byAncestor[at] ?? []).reverse()) {
        this.histories.get(row.channel)?.writes.push(toHistoryWrite(row, id));
      }
    }
  }

  private checkTime(): void {
    const { milliseconds } = this.limits;
    if (performance.now() - this.began < milliseconds) return;
    throw new DatabaseUnavailableError(`The history took over ${milliseconds} ms`);
  }
}

/** A blob wins: beside one, an inline `true` is only its marker. */
function toSeed({ type, base64, value, mark }: PartRow): NonNullable<ChannelHistory['seed']> {
  if (type === null) return { value: fromJsonb(value, mark) };
  return { type, base64: base64 === null ? null : oneLine(base64) };
}

function toHistoryWrite(row: PartRow, checkpointId: string): HistoryWrite {
  const { task_id: taskId, idx, channel, type, base64, task_path: taskPath } = row;
  return { checkpointId, taskId: taskId ?? '', idx, channel, type, blob: oneLine(base64 ?? ''), taskPath };
}

/** Postgres breaks Base64 into lines of 76 characters. */
function oneLine(base64: string): string {
  return base64.replaceAll('\n', '');
}
