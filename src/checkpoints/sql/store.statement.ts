import type { Parameter } from '../../database/binary-client.js';
import type { Kind, Mode } from '../../database/request-queue.js';
import type { CheckpointKey, NewCheckpoint, PendingWrite } from '../domain/checkpoint.js';
import { toJsonb } from './jsonb-text.js';
import { byteaArray, intArray, textArray } from './postgres-array.js';
import type { Tables } from './tables.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { sharedLock, trySharedLocks } from './thread-lock.js';

/** What one request stores: a checkpoint with its blobs, or writes, of which existing ones are kept or replaced. */
export type Store =
  | { checkpoint: NewCheckpoint }
  | { key: CheckpointKey; writes: PendingWrite[]; onConflict: 'keep' | 'replace' };

/** How stores share a statement. */
export const MERGE: NonNullable<Kind<Store>['merge']> = {
  slotsOf: (store) => {
    // Checkpoints of one namespace may have blobs in common.
    if ('checkpoint' in store) return [store.checkpoint.key.checkpointNs];
    const { checkpointNs, checkpointId } = store.key;
    const tasks = new Set(store.writes.map((write) => write.taskId));
    return [...tasks].map((taskId) => [checkpointNs, checkpointId, taskId].join('\0'));
  },
  rowsOf: (store) => ('checkpoint' in store ? 1 : 0) + rowsOf(store).length,
  bytesOf: (store) => {
    const documents =
      'checkpoint' in store ? store.checkpoint.checkpoint.length + store.checkpoint.metadata.length : 0;
    return rowsOf(store).reduce((sum, { blob }) => sum + (blob?.length ?? 0), documents);
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
   * The statement and its parameters. A shared one leaves out the threads whose lock it cannot have at once, and its rows are
   * their ids; one that is not shared, whose stores are all of one thread, waits for the lock and gives no row.
   */
  of(stores: Store[], mode: Mode): { sql: string; parameters: Parameter[] } {
    const checkpoints = stores.flatMap((store) => ('checkpoint' in store ? store.checkpoint : []));
    const writes = { keep: [] as WriteRow[], replace: [] as WriteRow[] };
    for (const store of stores) {
      if ('checkpoint' in store) continue;
      for (const write of store.writes) writes[store.onConflict].push({ key: store.key, ...write });
    }
    const parts: Part[] = [];
    if (checkpoints.length > 0) parts.push(...this.storeCheckpoints(checkpoints));
    if (writes.keep.length > 0) parts.push(this.storeWrites(writes.keep, 'do nothing'));
    if (writes.replace.length > 0) parts.push(this.storeWrites(writes.replace, REPLACE));
    const threads = mode.isShared ? [textArray([...new Set(stores.map(threadOf))])] : [];
    return {
      sql: this.textOf(parts, mode),
      parameters: [...threads, ...parts.flatMap(({ parameters }) => parameters)],
    };
  }

  private textOf(parts: Part[], { isShared, lockWaitMs }: Mode): string {
    const kind = [isShared, lockWaitMs, ...parts.map(({ name }) => name)].join();
    const known = this.texts.get(kind);
    if (known !== undefined) return known;
    let bound = isShared ? 1 : 0;
    const inserts = parts.map(({ types, insert, columns, onConflict }, at) => {
      const arrays = types.map((type) => `$${(bound += 1)}::${type}[]`);
      // Evaluated once, before the first row: the locks, and that the part before is done.
      const conditions = [
        ...(isShared ? ['r.thread_id <> all(array(select id from locked where not is_held))'] : []),
        ...(!isShared && at === 0 ? [sharedLock(`(${arrays[0] ?? ''})[1]`, lockWaitMs)] : []),
        ...(at > 0 ? [`(select pg_catalog.count(*) from ${parts[at - 1]?.name ?? ''}) >= 0`] : []),
      ];
      const columnwise = arrays.map((array) => `pg_catalog.unnest(${array})`).join(', ');
      return `${insert} from rows from (${columnwise}) as r (${columns})
           where ${conditions.join(' and ')}
              on conflict ${onConflict}`;
    });
    const last = inserts.pop() ?? '';
    const ctes = inserts.map((insert, at) => `${parts[at]?.name ?? ''} as (${insert} returning 1)`);
    if (isShared) {
      ctes.unshift(`locked as materialized (${trySharedLocks('$1::text[]', lockWaitMs)})`);
      ctes.push(`${parts.at(-1)?.name ?? ''} as (${last})`);
    }
    const main = isShared ? 'select id from locked where not is_held' : last;
    const text = ctes.length === 0 ? main : `with ${ctes.join(', ')} ${main}`;
    this.texts.set(kind, text);
    return text;
  }

  private storeCheckpoints(checkpoints: NewCheckpoint[]): Part[] {
    const rows = checkpoints
      .map((row) => ({ ...row, ...jsonbOf(row) }))
      .sort((a, b) => compareKeys(a.key, b.key));
    const blobs = rows.flatMap(({ key, blobs: own }) =>
      own
        .map((blob) => ({ key, ...blob }))
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
        select r.*`,
        // Never true, but locks the row that is there: an instance of a release without locks on threads deletes no blob then.
        onConflict:
          '(thread_id, checkpoint_ns, channel, version) do update set type = excluded.type where false',
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
        select r.*`,
      onConflict: `(thread_id, checkpoint_ns, checkpoint_id, task_id, idx) ${onConflict}`,
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

type WriteRow = PendingWrite & { key: CheckpointKey };

/** An insert of the rows that the arrays hold, column by column. */
interface Part {
  name: string;
  types: string[];
  columns: string;
  insert: string;
  onConflict: string;
  parameters: Parameter[];
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
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
