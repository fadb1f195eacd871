import type { Parameter } from '../../database/binary-client.js';
import type { Kind, Mode } from '../../database/request-queue.js';
import type { CheckpointKey, NewCheckpoint, PendingWrite } from '../domain/checkpoint.js';
import { toJsonb } from './jsonb-text.js';
import type { Base, NewRecord } from '../blob-storage/planner.js';
import { crcOfRecordSql } from './log-records.js';
import { bigintArray, byteaArray, intArray, textArray } from './postgres-array.js';
import type { Tables } from './tables.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { sharedLock, trySharedLocks } from './thread-lock.js';

/** What one request stores: a checkpoint with its blobs, or writes, of which existing ones are kept or replaced. */
export type Store = (
  | { checkpoint: NewCheckpoint }
  | { key: CheckpointKey; writes: PendingWrite[]; onConflict: 'keep' | 'replace' }
) & { deltas?: Deltas | undefined };

/** What blobs and writes that are places need: versions of logs that are as they are believed to be, and new records. */
export interface Deltas {
  bases: Base[];
  records: NewRecord[];
  /** The statement found that it is not so, and stored nothing of the request. */
  isLost: boolean;
}

/** How stores share a statement. */
export const MERGE: NonNullable<Kind<Store>['merge']> = {
  slotsOf: (store) => {
    // Checkpoints of one namespace may have blobs in common; and of two that go on from one log the first one wins.
    if ('checkpoint' in store) {
      const logs = store.deltas?.records.filter(({ at }) => at > 0).map(({ log }) => `log ${log}`) ?? [];
      return [`ns ${store.checkpoint.key.checkpointNs}`, ...logs];
    }
    const { checkpointNs, checkpointId } = store.key;
    const tasks = new Set(store.writes.map((write) => write.taskId));
    return [...tasks].map((taskId) => [checkpointNs, checkpointId, taskId].join('\0'));
  },
  rowsOf: (store) =>
    ('checkpoint' in store ? 1 : 0) + rowsOf(store).length + (store.deltas?.records.length ?? 0),
  bytesOf: (store) => {
    const documents =
      'checkpoint' in store ? store.checkpoint.checkpoint.length + store.checkpoint.metadata.length : 0;
    const records = store.deltas?.records.reduce((sum, { delta }) => sum + delta.length, 0) ?? 0;
    return rowsOf(store).reduce((sum, { blob }) => sum + (blob?.length ?? 0), documents + records);
  },
};

function rowsOf(store: Store): { blob: Buffer | null }[] {
  return 'checkpoint' in store ? store.checkpoint.blobs : store.writes;
}

/** The thread of a store, whose lock it needs. */
export function threadOf(store: Store): StoredThreadId {
  return ('checkpoint' in store ? store.checkpoint.key : store.key).threadId;
}

/**
 * One statement that carries out stores which have no row in common. Its text depends on what kinds there are, not on how
 * many rows, so that few are prepared. Locks on threads go first, then checkpoints, then blobs, then writes, each in the order
 * of their keys: two statements then lock the same rows in the same order. The rows are sorted here, not by `order by`, which
 * would carry the blobs through Postgres's sort. Nothing depends on the statement's snapshot, which is older than its locks.
 */
export class StoreStatement {
  private readonly texts = new Map<string, string>();

  constructor(private readonly tables: Tables) {}

  /**
   * The statement and its parameters. Its rows are what was left out: the id of a thread whose lock a shared one cannot have at
   * once, or the number of a request, from 1 on, whose deltas do not fit. One that is not shared, whose stores are all of one
   * thread, waits for the lock.
   */
  of(stores: Store[], mode: Mode): { sql: string; parameters: Parameter[] } {
    const hasDeltas = stores.some((store) => store.deltas !== undefined);
    const checkpoints: CheckpointRow[] = [];
    const writes = { keep: [] as WriteRow[], replace: [] as WriteRow[] };
    for (const [at, store] of stores.entries()) {
      const request = at + 1;
      if ('checkpoint' in store) checkpoints.push({ request, ...store.checkpoint });
      else {
        for (const write of store.writes)
          writes[store.onConflict].push({ request, key: store.key, ...write });
      }
    }
    const parts: Part[] = [];
    if (checkpoints.length > 0) parts.push(...this.storeCheckpoints(checkpoints));
    if (writes.keep.length > 0) parts.push(this.storeWrites(writes.keep, 'do nothing'));
    if (writes.replace.length > 0) parts.push(this.storeWrites(writes.replace, REPLACE));
    const threads = mode.isShared || hasDeltas ? [textArray([...new Set(stores.map(threadOf))])] : [];
    const own = parts.flatMap(({ parameters, requests }) =>
      hasDeltas ? [intArray(requests), ...parameters] : parameters,
    );
    return {
      sql: this.textOf(parts, mode, hasDeltas),
      parameters: [...threads, ...(hasDeltas ? deltaArrays(stores) : []), ...own],
    };
  }

  private textOf(parts: Part[], mode: Mode, hasDeltas: boolean): string {
    const { isShared, lockWaitMs } = mode;
    const kind = [isShared, lockWaitMs, hasDeltas, ...parts.map(({ name }) => name)].join();
    const known = this.texts.get(kind);
    if (known !== undefined) return known;
    let bound = isShared || hasDeltas ? 1 : 0;
    const bind = (types: string[]) => types.map((type) => `$${(bound += 1)}::${type}[]`);
    const ctes: string[] = [];
    let isFree: string | null = null;
    if (isShared) {
      ctes.push(`locked as materialized (${trySharedLocks('$1::text[]', lockWaitMs)})`);
      isFree = 'r.thread_id <> all(array(select id from locked where not is_held))';
    } else if (hasDeltas) {
      ctes.push(`locked as materialized (select ${sharedLock('($1::text[])[1]', lockWaitMs)} as is_held)`);
      isFree = '(select is_held from locked)';
    }
    if (hasDeltas)
      ctes.push(...this.deltaCtes(rowsFrom(bind(BASE_TYPES)), rowsFrom(bind(RECORD_TYPES)), isFree));
    let before = hasDeltas ? 'begun' : null;
    let last = '';
    for (const { name, types, insert, columns, onConflict } of parts) {
      const arrays = bind(hasDeltas ? ['int', ...types] : types);
      // Evaluated once, before the first row: the locks, and that the part before is done.
      const conditions = [
        isFree ?? (before === null ? sharedLock(`(${arrays[0] ?? ''})[1]`, lockWaitMs) : []),
        before === null ? [] : `(select pg_catalog.count(*) from ${before}) >= 0`,
        hasDeltas ? 'r.request not in (select request from lost)' : [],
      ].flat();
      last = `${insert} from ${rowsFrom(arrays)} as r (${hasDeltas ? 'request, ' : ''}${columns})
           where ${conditions.join(' and ')}
              on conflict ${onConflict}`;
      ctes.push(`${name} as (${last} returning 1)`);
      before = name;
    }
    const leftOut = leftOutSql(isShared, hasDeltas);
    if (leftOut === null) ctes.pop();
    const text = `${ctes.length === 0 ? '' : `with ${ctes.join(', ')} `}${leftOut ?? last}`;
    this.texts.set(kind, text);
    return text;
  }

  /**
   * `lost`: the requests of which a base is not there, or is another value, or has a record after it already. `begun` stores the
   * first records of the others. Record 0 of each base is locked, so that its log stays: the snapshot may be older than the lock
   * on the thread. That a record conflicts is never taken to mean that the request was carried out before.
   */
  private deltaCtes(bases: string, records: string, isFree: string | null): string[] {
    const { deltas } = this.tables;
    const into = `insert into ${deltas} (thread_id, log, at, delta) select r.thread_id, r.log, r.at, r.delta from new as r`;
    return [
      `base as materialized (
         select r.* from ${bases} as r (request, thread_id, log, at, crc) where ${isFree})`,
      `kept as materialized (
         select b.request, b.log, b.at
           from base b
          cross join lateral (select from ${deltas} d
                               where d.thread_id = b.thread_id and d.log = b.log and d.at = 0
                                 for key share) as first
          cross join lateral (select from ${deltas} d
                               where d.thread_id = b.thread_id and d.log = b.log and d.at = b.at
                                 and ${crcOfRecordSql('d.delta')} = b.crc
                               limit 1) as version)`,
      `unkept as materialized (
         select b.request
           from base b
          where not exists (select from kept k where k.request = b.request and k.log = b.log and k.at = b.at))`,
      `new as materialized (
         select r.* from ${records} as r (request, thread_id, log, at, delta) where ${isFree})`,
      `added as (
         ${into}
          where r.at > 0 and r.request not in (select request from unkept)
             on conflict do nothing returning thread_id, log, at)`,
      `lost as materialized (
         select request from unkept
          union
         select r.request
           from new as r
          where r.at > 0
            and not exists (select from added a where a.thread_id = r.thread_id and a.log = r.log and a.at = r.at))`,
      `begun as (
         ${into}
          where r.at = 0 and r.request not in (select request from lost)
             on conflict do nothing returning 1)`,
    ];
  }

  private storeCheckpoints(checkpoints: CheckpointRow[]): Part[] {
    const rows = checkpoints
      .map((row) => ({ ...row, ...jsonbOf(row) }))
      .sort((a, b) => compareKeys(a.key, b.key));
    const blobs = rows.flatMap(({ request, key, blobs: own }) =>
      own
        .map((blob) => ({ request, key, ...blob }))
        .sort((a, b) => compare(a.channel, b.channel) || compare(a.version, b.version)),
    );
    const stored: Part = {
      name: 'stored',
      types: ['text', 'text', 'text', 'text', 'text', 'text', 'text'],
      columns: 'thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, mark, checkpoint, metadata',
      insert: `
        insert into ${this.tables.checkpoints}
          (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
        select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, mark, checkpoint::jsonb, metadata::jsonb`,
      onConflict: `(thread_id, checkpoint_ns, checkpoint_id)
        do update set type = excluded.type, checkpoint = excluded.checkpoint, metadata = excluded.metadata`,
      requests: rows.map(({ request }) => request),
      parameters: [
        ...keyArrays(rows),
        textArray(rows.map((row) => row.parentCheckpointId)),
        textArray(rows.map((row) => row.mark)),
        textArray(rows.map((row) => row.checkpoint)),
        textArray(rows.map((row) => row.metadata)),
      ],
    };
    if (blobs.length === 0) return [stored];
    return [
      stored,
      {
        name: 'stored_blobs',
        types: ['text', 'text', 'text', 'text', 'text', 'bytea'],
        columns: 'thread_id, checkpoint_ns, channel, version, type, blob',
        insert: `
        insert into ${this.tables.blobs} (thread_id, checkpoint_ns, channel, version, type, blob)
        select r.thread_id, r.checkpoint_ns, r.channel, r.version, r.type, r.blob`,
        // Never true, but locks the row that is there: an instance of a release without locks on threads deletes no blob then.
        onConflict:
          '(thread_id, checkpoint_ns, channel, version) do update set type = excluded.type where false',
        requests: blobs.map(({ request }) => request),
        parameters: [
          textArray(blobs.map((row) => row.key.threadId)),
          textArray(blobs.map((row) => row.key.checkpointNs)),
          textArray(blobs.map((row) => row.channel)),
          textArray(blobs.map((row) => row.version)),
          textArray(blobs.map((row) => row.type)),
          byteaArray(blobs.map((row) => row.blob)),
        ],
      },
    ];
  }

  private storeWrites(writes: WriteRow[], onConflict: string): Part {
    const rows = writes.sort(
      (a, b) => compareKeys(a.key, b.key) || compare(a.taskId, b.taskId) || a.idx - b.idx,
    );
    return {
      name: onConflict === REPLACE ? 'replaced_writes' : 'kept_writes',
      types: ['text', 'text', 'text', 'text', 'int', 'text', 'text', 'text', 'bytea'],
      columns: 'thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, task_path, blob',
      insert: `
        insert into ${this.tables.writes}
          (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, task_path, blob)
        select r.thread_id, r.checkpoint_ns, r.checkpoint_id, r.task_id, r.idx, r.channel, r.type, r.task_path, r.blob`,
      onConflict: `(thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ${onConflict}`,
      requests: rows.map(({ request }) => request),
      parameters: [
        ...keyArrays(rows),
        textArray(rows.map((row) => row.taskId)),
        intArray(rows.map((row) => row.idx)),
        textArray(rows.map((row) => row.channel)),
        textArray(rows.map((row) => row.type)),
        textArray(rows.map((row) => row.taskPath)),
        byteaArray(rows.map((row) => row.blob)),
      ],
    };
  }
}

type CheckpointRow = NewCheckpoint & { request: number };
type WriteRow = PendingWrite & { key: CheckpointKey; request: number };

/** An insert of the rows that the arrays hold, column by column. */
interface Part {
  name: string;
  types: string[];
  columns: string;
  insert: string;
  onConflict: string;
  /** Of each row, the number of its request. */
  requests: number[];
  parameters: Parameter[];
}

const BASE_TYPES = ['int', 'text', 'bigint', 'int', 'bigint'];
const RECORD_TYPES = ['int', 'text', 'bigint', 'int', 'bytea'];

/** The parameters of `deltaCtes`, in the order of their keys: two statements then lock the same logs in the same order. */
function deltaArrays(stores: Store[]): Parameter[] {
  const rows = stores.flatMap((store, at) => {
    const { bases = [], records = [] } = store.deltas ?? {};
    const of = { request: at + 1, threadId: threadOf(store) };
    return [...bases.map((base) => ({ ...of, ...base })), ...records.map((record) => ({ ...of, ...record }))];
  });
  const sorted = rows.sort(
    (a, b) => compare(a.threadId, b.threadId) || compare(a.log, b.log) || compare(a.at, b.at),
  );
  const arrays = (of: typeof rows) => [
    intArray(of.map(({ request }) => request)),
    textArray(of.map(({ threadId }) => threadId)),
    bigintArray(of.map(({ log }) => log)),
    intArray(of.map(({ at }) => at)),
  ];
  const bases = sorted.filter((row) => 'crc' in row);
  const records = sorted.filter((row) => 'delta' in row);
  return [
    ...arrays(bases),
    bigintArray(bases.map(({ crc }) => BigInt(crc))),
    ...arrays(records),
    byteaArray(records.map(({ delta }) => delta)),
  ];
}

function rowsFrom(arrays: string[]): string {
  return `rows from (${arrays.map((array) => `pg_catalog.unnest(${array})`).join(', ')})`;
}

/** A query of what is left out: threads, requests. Null: nothing is. */
function leftOutSql(isShared: boolean, hasDeltas: boolean): string | null {
  const busy = (columns: string) => `select ${columns} from locked where not is_held`;
  if (!hasDeltas) return isShared ? busy('id') : null;
  const lost = 'select null as id, request from lost';
  return isShared ? `${busy('id, null::int as request')} union all ${lost}` : lost;
}

const REPLACE = 'do update set channel = excluded.channel, type = excluded.type, blob = excluded.blob';

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

function compareKeys(a: CheckpointKey, b: CheckpointKey): number {
  return (
    compare(a.threadId, b.threadId) ||
    compare(a.checkpointNs, b.checkpointNs) ||
    compare(a.checkpointId, b.checkpointId)
  );
}

/** Any total order does, as long as it is the same in every instance. */
function compare<T extends string | bigint | number>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
