import type { Client } from 'pg';
import { CorruptDeltaError, type Level } from '../blob-storage/operations.js';
import {
  crcOfRecord,
  PLACE_BYTES,
  readPlace,
  readRecord,
  valueAt,
  versionAfter,
} from '../blob-storage/place.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { isPlace, logOfPlace, recordOfPlace } from './log-records.js';
import { hasKey, keyOf, type PlaceRow } from './place-rows.js';
import type { Tables } from './tables.js';

/** Of places, in rows; and of records, in rows and, but for a single one, in bytes. */
const BATCH = 500;
const BATCH_BYTES = 8 * 1024 * 1024;

/** A row whose value is elsewhere, as it was read. */
export interface PlacedRow extends PlaceRow {
  channel: string;
  type: string;
}

/** A value that is elsewhere; or why there is none, for a row, or for a log as such; or a log that no row is in. */
export type Finding =
  | { kind: 'value'; row: PlacedRow; value: Buffer }
  | { kind: 'fault'; row: PlacedRow | null; reason: string }
  | { kind: 'unused'; log: bigint };

interface PlaceHead extends PlacedRow {
  log: bigint;
  at: number;
  head: Buffer;
  isVersion: boolean;
}

interface LogRecord {
  log: bigint;
  at: number;
  delta: Buffer;
}

/** As pg gives a row: a log is a number of 64 bits. */
type AsText<Row extends { log: bigint }> = Omit<Row, 'log'> & { log: string };

/** Rows that are fetched batch by batch, the next of which can be looked at. */
class Ahead<Row> {
  private rows: Row[] = [];
  private at = 0;
  private isAtEnd = false;

  constructor(private readonly fetch: (last: Row | undefined) => Promise<Row[]>) {}

  async peek(): Promise<Row | undefined> {
    if (this.at === this.rows.length && !this.isAtEnd) {
      this.rows = await this.fetch(this.rows.at(-1));
      this.at = 0;
      this.isAtEnd = this.rows.length === 0;
    }
    return this.rows[this.at];
  }

  skip(): void {
    this.at += 1;
  }
}

/** A log that is read from its beginning on. */
class Log {
  isUsed = false;
  private at = -1;
  /** Why no version from here on can be had. */
  private fault: string | null = null;
  /** The last version that was asked for, and the records after it. */
  private version: Buffer | null = null;
  private records: Level[] = [];
  private crc = 0;

  constructor(readonly id: bigint) {}

  /** Returns what is wrong with the log, once. */
  add({ at, delta }: LogRecord): string | null {
    const before = this.at;
    this.at = at;
    if (this.fault !== null) return null;
    if (at !== before + 1) return (this.fault = `record ${before + 1} of log ${this.id} is missing`);
    try {
      const record = readRecord(delta);
      this.crc = crcOfRecord(record);
      this.records.push(record);
      return null;
    } catch (error) {
      return (this.fault = `record ${at} of log ${this.id}: ${reasonOf(error)}`);
    }
  }

  /** The value at a place that names the last record. @throws CorruptDeltaError */
  valueAt(at: number, place: Buffer): Buffer {
    if (this.at !== at) throw new CorruptDeltaError(`record ${at} of log ${this.id} is missing`);
    if (this.fault !== null) throw new CorruptDeltaError(this.fault);
    if (this.records.length > 0) {
      this.version = versionAfter(this.version, this.records);
      this.records = [];
    }
    const value = valueAt(place, this.version as Buffer);
    const { isVersion, crc } = readPlace(place);
    // Whoever goes on from it would find another value than the one that is there.
    if (isVersion && crc !== this.crc) throw new CorruptDeltaError('its record has another CRC-32');
    return value;
  }
}

/**
 * What a thread has in its logs, on one snapshot. Places and records are read side by side, in the order of logs and versions: each
 * record once, whatever names it, and no more than one log is in memory.
 */
export async function* valuesOfThread(
  client: Client,
  tables: Tables,
  threadId: StoredThreadId,
): AsyncGenerator<Finding> {
  await client.query('begin isolation level repeatable read, read only');
  try {
    const [places, records] = [
      await readPlaces(client, tables, threadId),
      readRecords(client, tables, threadId),
    ];
    let log = null as Log | null;
    for (;;) {
      const [place, record] = [await places.peek(), await records.peek()];
      if (record !== undefined && (place === undefined || isUpTo(record, place))) {
        records.skip();
        if (log?.id !== record.log) {
          if (log?.isUsed === false) yield { kind: 'unused', log: log.id };
          log = new Log(record.log);
        }
        const reason = log.add(record);
        if (reason !== null) yield { kind: 'fault', row: null, reason };
        continue;
      }
      if (place === undefined) break;
      places.skip();
      const { log: id, at, head, isVersion, ...row } = place;
      const of = log?.id === id ? log : new Log(id);
      of.isUsed = true;
      const bytes = isVersion ? head : await placeOf(client, tables, threadId, row);
      try {
        yield { kind: 'value', row, value: of.valueAt(at, bytes) };
      } catch (error) {
        yield { kind: 'fault', row, reason: reasonOf(error) };
      }
    }
    if (log?.isUsed === false) yield { kind: 'unused', log: log.id };
  } finally {
    await client.query('rollback').catch(() => undefined);
  }
}

async function readPlaces(
  client: Client,
  tables: Tables,
  threadId: StoredThreadId,
): Promise<Ahead<PlaceHead>> {
  const of = (table: PlaceRow['table']) => `
    select '${table}' as table, checkpoint_ns as ns, ${keyOf(table)} as key, channel, type, xmin::text as xmin,
           ${logOfPlace('blob')} as log, ${recordOfPlace('blob')} as at,
           pg_catalog.substr(blob, 1, ${PLACE_BYTES}) as head, pg_catalog.octet_length(blob) = ${PLACE_BYTES} as "isVersion"
      from ${tables[table]}
     where thread_id = $1 and ${isPlace('type')}`;
  await client.query(
    `declare places no scroll cursor for ${of('blobs')} union all ${of('writes')} order by log, at`,
    [threadId],
  );
  return new Ahead(async () => {
    const { rows } = await client.query<AsText<PlaceHead>>(`fetch forward ${BATCH} from places`);
    return rows.map((row) => ({ ...row, log: BigInt(row.log) }));
  });
}

/** Sizes are known before records are: `octet_length` does not fetch a large one. */
function readRecords(client: Client, { deltas }: Tables, threadId: StoredThreadId): Ahead<LogRecord> {
  const sql = `
    select log, at, delta
      from (select log, at, delta, pg_catalog.sum(pg_catalog.octet_length(delta)) over (order by log, at) as total
              from ${deltas}
             where thread_id = $1 and (log, at) > ($2::bigint, $3::int)
             order by log, at
             limit ${BATCH}) as r
     where total - pg_catalog.octet_length(delta) < ${BATCH_BYTES}
     order by log, at`;
  return new Ahead(async (last) => {
    const after = last === undefined ? [String(-(2n ** 63n)), -1] : [String(last.log), last.at];
    const { rows } = await client.query<AsText<LogRecord>>(sql, [threadId, ...after]);
    return rows.map((row) => ({ ...row, log: BigInt(row.log) }));
  });
}

/** A place with its operations. */
async function placeOf(
  client: Client,
  tables: Tables,
  threadId: StoredThreadId,
  { table, ns, key }: PlacedRow,
): Promise<Buffer> {
  const { rows } = await client.query<{ blob: Buffer }>(
    `select blob from ${tables[table]} as t
      where t.thread_id = $1 and t.checkpoint_ns = $2 and ${hasKey(table, ['$3', '$4', '$5'])}`,
    [threadId, ns, ...key],
  );
  return rows[0]?.blob ?? Buffer.alloc(0);
}

/** Whether the place comes after the record. */
function isUpTo(record: LogRecord, place: PlaceHead): boolean {
  return record.log < place.log || (record.log === place.log && record.at <= place.at);
}

function reasonOf(error: unknown): string {
  if (error instanceof CorruptDeltaError) return error.message;
  throw error;
}
