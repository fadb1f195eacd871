import type { DeltaMetrics } from '../../observability/metrics/metrics.js';
import { bigintArray, intArray, textArray } from './postgres-array.js';
import type { Tables } from './tables.js';
import { ROW_BYTES, splitsOf } from '../blob-storage/planner.js';
import { CorruptDeltaError, type Level } from '../blob-storage/operations.js';
import { type Place, readPlace, readRecord, valueAt } from '../blob-storage/place.js';
import type { InLog, RecentValue, RecentValues } from '../blob-storage/recent-values.js';
import { DELTA_TYPE, type StoredBytes } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';

/** Of a log, by the number of the record. */
export type RecordRow = [n: number, at: number, delta: Buffer, isContinued: number];

/** Runs the statement of `recordsSql`. */
export type FetchRecords = (sql: string, parameters: Buffer[]) => Promise<RecordRow[]>;

/** A blob or write that has a place where its value belongs. */
export interface Holder {
  threadId: StoredThreadId;
  row: { type: string | null; blob: StoredBytes | null };
  /** In words for the log. */
  name: string;
}

/** A log that a place names is not there any more: the row that has the place is not either, by now. */
export class LogGoneError extends Error {}

interface Log {
  threadId: StoredThreadId;
  log: bigint;
  /** The last record that is needed. */
  upTo: number;
  records: Level[];
  isContinued: boolean;
}

/** SQL: whether the value is elsewhere. */
export function isPlace(type: string): string {
  return `${type} like '${DELTA_TYPE}%'`;
}

/** SQL: a big-endian number of so many bytes, the first of which is the n-th, from 1 on. */
function numberAt(bytes: string, first: number, count: number): string {
  return `('x' || pg_catalog.encode(pg_catalog.substr(${bytes}, ${first}, ${count}), 'hex'))::pg_catalog.bit(${8 * count})`;
}

/** SQL: how many bytes the value has. */
export function bytesOfValue(type: string, blob: string): string {
  return `case when ${isPlace(type)}
               then ${numberAt(blob, 14, 4)}::bigint
               else pg_catalog.octet_length(${blob}) end`;
}

/** SQL: the log that a place names. */
export function logOfPlace(blob: string): string {
  return `${numberAt(blob, 2, 8)}::bigint`;
}

/** SQL: the number of the record in that log. */
export function recordOfPlace(blob: string): string {
  return `${numberAt(blob, 10, 4)}::int`;
}

/** SQL: the CRC-32 that a record has in its head. */
export function crcOfRecordSql(delta: string): string {
  return `${numberAt(delta, 2, 4)}::bigint`;
}

/** Each log once, up to the last record that is asked for; the order of records is made here, not by Postgres. */
function recordsSql({ deltas }: Tables): string {
  return `
    select v.n::int, d.at, d.delta,
           case when d.at = v.up_to
                 and exists (select from ${deltas} e where e.thread_id = v.thread_id and e.log = v.log and e.at = v.up_to + 1)
                then 1 else 0 end as is_continued
      from rows from (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::bigint[]), pg_catalog.unnest($3::int[]))
           with ordinality as v (thread_id, log, up_to, n)
     cross join lateral (select d.at, d.delta
                           from ${deltas} d
                          where d.thread_id = v.thread_id and d.log = v.log and d.at <= v.up_to
                         offset 0) as d`;
}

/** A holder with its place, as numbers and as bytes. */
export interface Placed {
  holder: Holder;
  place: Place;
  bytes: Buffer;
}

/** @throws CorruptDeltaError */
export function placesOf(holders: Holder[]): Placed[] {
  return holders.map((holder) => {
    const bytes = bytesOf(holder.row.blob as StoredBytes);
    return { holder, place: named(holder, () => readPlace(bytes)), bytes };
  });
}

/**
 * Puts the values in the place of the places: from memory, or by one statement for all. Returns what is known of each value that is
 * a version of a log, by its holder.
 *
 * @throws LogGoneError; CorruptDeltaError when a value is not the one that was stored
 */
export async function resolvePlaces(
  places: Placed[],
  tables: Tables,
  recent: RecentValues,
  fetch: FetchRecords,
  metrics: DeltaMetrics,
): Promise<Map<Holder, RecentValue>> {
  const known = new Map<Holder, RecentValue>();
  const missing: (Placed & { log: Log })[] = [];
  const logs = new Map<string, Log>();
  for (const { holder, place, bytes } of places) {
    const base = recent.at(holder.threadId, place);
    if (base !== null && (!place.isVersion || base.crc === place.crc)) {
      const value = place.isVersion ? base.bytes : named(holder, () => valueAt(bytes, base.bytes));
      put(holder, value);
      known.set(holder, place.isVersion ? base : { bytes: value, crc: place.crc, inLog: null });
      metrics.memory.add('hit');
      continue;
    }
    const key = `${place.log} ${holder.threadId}`;
    const log = logs.get(key) ?? {
      threadId: holder.threadId,
      log: place.log,
      upTo: 0,
      records: [],
      isContinued: false,
    };
    logs.set(key, log);
    log.upTo = Math.max(log.upTo, place.at);
    missing.push({ holder, place, bytes, log });
  }
  if (missing.length === 0) return known;
  await fetchLogs([...logs.values()], tables, fetch);
  for (const { holder, place, bytes, log } of missing) {
    // A gap is `undefined` too.
    if (log.records.length <= place.at || log.records.slice(0, place.at + 1).includes(undefined as never)) {
      throw new LogGoneError(`${holder.name}: record ${place.at} of log ${place.log} is missing`);
    }
    const value = named(holder, () => valueAt(bytes, log.records));
    metrics.memory.add('miss');
    metrics.records.observe(place.at + 1);
    put(holder, value);
    known.set(holder, { bytes: value, crc: place.crc, inLog: place.isVersion ? inLogOf(log, place) : null });
  }
  return known;
}

async function fetchLogs(logs: Log[], tables: Tables, fetch: FetchRecords): Promise<void> {
  const rows = await fetch(recordsSql(tables), [
    textArray(logs.map(({ threadId }) => threadId)),
    bigintArray(logs.map(({ log }) => log)),
    intArray(logs.map(({ upTo }) => upTo)),
  ]);
  for (const [n, at, delta, isContinued] of rows) {
    const log = logs[n - 1] as Log;
    const name = `record ${at} of log ${log.log} of thread ${log.threadId}`;
    log.records[at] = named({ name }, () => readRecord(delta));
    log.isContinued ||= isContinued === 1;
  }
}

function inLogOf({ log, records, upTo, isContinued }: Log, { at }: Place): InLog {
  let bytes = 0;
  let splits = 0;
  for (const record of records.slice(0, at + 1)) {
    bytes += record.bytes.length + ROW_BYTES;
    splits += splitsOf(record.operations);
  }
  return { log, at, bytes, splits, isTip: at === upTo && !isContinued };
}

/** Whether the value of a row is elsewhere. */
export function isElsewhere({ type, blob }: Holder['row']): boolean {
  return type !== null && blob !== null && type.startsWith(DELTA_TYPE);
}

function put({ row }: Holder, value: Buffer): void {
  row.type = (row.type as string).slice(DELTA_TYPE.length);
  row.blob = value;
}

function bytesOf(bytes: StoredBytes): Buffer {
  return typeof bytes === 'string' ? Buffer.from(bytes, 'base64') : bytes;
}

/** Says whose value it is that cannot be read. */
function named<T>({ name }: { name: string }, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof CorruptDeltaError) throw new CorruptDeltaError(`${name}: ${error.message}`);
    throw error;
  }
}
