import type { Client } from 'pg';
import { DeltaMetrics } from '../../observability/metrics/metrics.js';
import { readPlace } from '../blob-storage/place.js';
import type { Base, NewRecord } from '../blob-storage/planner.js';
import { RecentValues } from '../blob-storage/recent-values.js';
import { type CheckpointKey, DELTA_TYPE } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { DeltaStorage } from './delta-storage.js';
import { crcOfRecordSql, type RecordRow } from './log-records.js';
import { type PlaceRow, restore, type Stored } from './place-rows.js';
import { bigintArray, byteaArray, intArray } from './postgres-array.js';
import type { Deltas } from './store.statement.js';
import { StoredValues } from './stored-values.js';
import type { Tables } from './tables.js';
import { withThreads } from './thread-turn.js';
import { type Found, PAGE, WholeValues } from './whole-values.js';

/** Of the values that others may go on from. A thread that has more is compacted with a read of each. */
const MEMORY_BYTES = 128 * 1024 * 1024;
/** On a connection of its own nobody waits for a turn. */
const MODE = { tenant: '', since: 0, isShared: false, lockWaitMs: 0 };

/** What became of some values, in bytes as they are before Postgres compresses them. */
export interface Compacted {
  values: number;
  bytesBefore: number;
  bytesAfter: number;
}

/**
 * Stores values of a thread, which are stored whole, as they would have been stored with BLOB_STORAGE=delta: checkpoint by checkpoint, in
 * the order in which they came. Each is a transaction of its own, so that it may be interrupted at any point, and begun again.
 */
export class ThreadCompaction {
  private readonly recent = new RecentValues(MEMORY_BYTES);
  private readonly whole: WholeValues;
  /** Values that begin a log in which no other one is yet, by the log. */
  private readonly waiting = new Map<bigint, { row: Change; record: NewRecord }>();
  private readonly storage: DeltaStorage;

  constructor(
    private readonly client: Client,
    private readonly tables: Tables,
    private readonly isDryRun: boolean,
  ) {
    const whole = (this.whole = new WholeValues(client, tables));
    const metrics = new DeltaMetrics(); // which nobody asks for
    const values = new StoredValues(
      tables,
      this.recent,
      async (text, parameters) => {
        const { rows } = await client.query<RecordRow>({ text, values: parameters, rowMode: 'array' });
        return rows;
      },
      metrics,
    );
    this.storage = new DeltaStorage(
      this.recent,
      values,
      async (threadId, ns, id) => {
        const key = { threadId, checkpointNs: ns, checkpointId: id };
        const parts = { key, blobs: await whole.valuesOf(threadId, ns, id) };
        await values.resolve([parts], MODE, Infinity);
        return parts;
      },
      metrics,
    );
  }

  /** Says of each checkpoint what became of its values. */
  async *compact(threadId: StoredThreadId): AsyncGenerator<Compacted> {
    let page: Found[] = [];
    do {
      page = await this.whole.pageAfter(threadId, page.at(-1));
      for (const found of page) {
        yield await this.compactBlobs(threadId, found);
        if (found.writes > 0) yield await this.compactWrites(threadId, found);
      }
    } while (page.length === PAGE);
    this.recent.forget(threadId);
    this.waiting.clear();
  }

  private async compactBlobs(threadId: StoredThreadId, found: Found): Promise<Compacted> {
    const key = keyOf(threadId, found);
    const blobs = found.channels.length > 0 ? await this.whole.blobs(threadId, found) : [];
    const done = nothing();
    await this.storage.checkpoint(
      { key, parentCheckpointId: found.parent, blobs },
      async ({ blobs: planned }, deltas) => {
        const rows = blobs.map(({ channel, version, xmin, blob }, at) => ({
          ...{ table: 'blobs' as const, ns: found.ns, key: [channel, version], xmin, was: blob },
          ...(planned[at] as Stored),
        }));
        await this.replace(threadId, rows, deltas, done);
      },
    );
    // What is in memory are the values from before.
    if (found.hasPlaces) this.recent.forget(threadId);
    return done;
  }

  private async compactWrites(threadId: StoredThreadId, found: Found): Promise<Compacted> {
    const writes = await this.whole.writes(threadId, found);
    const done = nothing();
    await this.storage.writes(keyOf(threadId, found), writes, async (planned, deltas) => {
      const rows = writes.map(({ task_id: task, idx, xmin, blob }, at) => ({
        ...{ table: 'writes' as const, ns: found.ns, key: [found.id, task, String(idx)], xmin, was: blob },
        ...(planned[at] as Stored),
      }));
      await this.replace(threadId, rows, deltas, done);
    });
    return done;
  }

  /**
   * Stores the places with their records; nothing of it, when a row or a log is not as it was read. A value that only begins a log waits
   * until another one goes on from it: by itself it would be written anew for nothing, as those are that agents encrypt.
   */
  private async replace(
    threadId: StoredThreadId,
    rows: Change[],
    deltas: Deltas | undefined,
    done: Compacted,
  ): Promise<void> {
    if (deltas === undefined) return;
    const changed = rows.filter(({ type }) => type.startsWith(DELTA_TYPE));
    const beginning = onlyBeginning(changed, deltas.records);
    const begun = deltas.bases.flatMap(({ log }) => this.waiting.get(log) ?? []);
    const stored = [...begun.map(({ row }) => row), ...changed.filter((row) => !beginning.has(row))];
    const firsts = begun.map(({ record }) => record);
    const waiting = [...beginning.values()];
    const records = deltas.records.filter((record) => !waiting.includes(record));
    if (stored.length > 0 && !this.isDryRun) {
      deltas.isLost = !(await this.turn(threadId, async () => {
        await this.storeRecords(threadId, firsts);
        await this.checkBases(threadId, deltas.bases);
        await this.storeRecords(threadId, records);
        const count = await restore(this.client, this.tables, threadId, stored);
        if (count < stored.length) throw new LostError();
      }));
      if (deltas.isLost) return;
    }
    for (const { record } of begun) this.waiting.delete(record.log);
    for (const [row, record] of beginning) this.wait(row, record);
    done.values += stored.length;
    for (const { was, blob } of stored) {
      done.bytesBefore += was.length;
      done.bytesAfter += blob.length;
    }
    for (const { delta } of [...firsts, ...records]) done.bytesAfter += delta.length;
  }

  private wait(row: Change, record: NewRecord): void {
    this.waiting.set(record.log, { row, record });
    let bytes = 0;
    for (const { record: own } of this.waiting.values()) bytes += own.delta.length;
    for (const [log, { record: own }] of this.waiting) {
      if (bytes <= MEMORY_BYTES) return;
      this.waiting.delete(log);
      bytes -= own.delta.length;
    }
  }

  /** Whether it was done, in a transaction that holds the thread's lock. */
  private async turn(threadId: StoredThreadId, work: () => Promise<void>): Promise<boolean> {
    try {
      await withThreads(this.client, [threadId], work);
      return true;
    } catch (error) {
      if (error instanceof LostError) return false;
      throw error;
    }
  }

  /** @throws LostError when a version is not there, or another one */
  private async checkBases(threadId: StoredThreadId, bases: Base[]): Promise<void> {
    if (bases.length === 0) return;
    const kept = await this.client.query(
      `select
         from rows from (pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::int[]), pg_catalog.unnest($4::bigint[])) as v (log, at, crc)
         join ${this.tables.deltas} d on d.thread_id = $1 and d.log = v.log and d.at = v.at and ${crcOfRecordSql('d.delta')} = v.crc`,
      [
        threadId,
        bigintArray(bases.map(({ log }) => log)),
        intArray(bases.map(({ at }) => at)),
        bigintArray(bases.map(({ crc }) => BigInt(crc))),
      ],
    );
    if (kept.rowCount !== bases.length) throw new LostError();
  }

  /** @throws LostError when a log has gone on meanwhile */
  private async storeRecords(threadId: StoredThreadId, records: NewRecord[]): Promise<void> {
    if (records.length === 0) return;
    const added = await this.client.query(
      `insert into ${this.tables.deltas} (thread_id, log, at, delta)
       select $1, v.log, v.at, v.delta
         from rows from (pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::int[]), pg_catalog.unnest($4::bytea[])) as v (log, at, delta)
           on conflict do nothing`,
      [
        threadId,
        bigintArray(records.map(({ log }) => log)),
        intArray(records.map(({ at }) => at)),
        byteaArray(records.map(({ delta }) => delta)),
      ],
    );
    if (added.rowCount !== records.length) throw new LostError();
  }
}

/** A row as it is to be, with the value that it has. */
type Change = PlaceRow & Stored & { was: Buffer };

/** Of rows that are the only one in a log of one record: that record. */
function onlyBeginning(rows: Change[], records: NewRecord[]): Map<Change, NewRecord> {
  const alone = new Map<Change, NewRecord>();
  for (const record of records) {
    const own = rows.filter(({ blob }) => readPlace(blob).log === record.log);
    if (record.at === 0 && own.length === 1) alone.set(own[0] as Change, record);
  }
  return alone;
}

/** A row or a log is not as it was read: the values stay as they are until the next time. */
class LostError extends Error {}

function nothing(): Compacted {
  return { values: 0, bytesBefore: 0, bytesAfter: 0 };
}

function keyOf(threadId: StoredThreadId, { ns, id }: Found): CheckpointKey {
  return { threadId, checkpointNs: ns, checkpointId: id };
}
