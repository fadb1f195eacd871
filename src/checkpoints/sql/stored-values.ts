import { crc32 } from 'node:zlib';
import type { Parameter } from '../../database/binary-client.js';
import { TooManyBytesError } from '../../database/binary-client.js';
import type { DeltaMetrics } from '../../observability/metrics/metrics.js';
import type { Mode } from '../../database/request-queue.js';
import { MIN_BYTES } from '../blob-storage/planner.js';
import type { RecentValue, RecentValues } from '../blob-storage/recent-values.js';
import type { CheckpointKey, CheckpointTuple, StoredBlob, StoredWrite } from '../domain/checkpoint.js';
import { type Holder, isElsewhere, placesOf, type RecordRow, resolvePlaces } from './log-records.js';
import type { Tables } from './tables.js';

type Send = (sql: string, parameters: Parameter[], mode: Mode, maxBytes: number) => Promise<RecordRow[]>;

/** What has values of a checkpoint that is read. */
export type StoredParts = Pick<CheckpointTuple, 'key' | 'blobs' | 'pendingWrites' | 'pendingSends'>;

/** What the records of a value may have beside twice its bytes. */
const SLACK_BYTES = 64 * 1024;

/** The values of blobs and writes that are differences to others. */
export class StoredValues {
  private readonly known = new WeakMap<object, RecentValue>();

  constructor(
    private readonly tables: Tables,
    private readonly recent: RecentValues,
    private readonly send: Send,
    private readonly metrics: DeltaMetrics,
  ) {}

  /**
   * Puts them where they belong in the checkpoints; by a statement of their own, since a list then reads each log once, and since most
   * are in memory. Returns how many bytes these are.
   *
   * @throws TooManyBytesError when they are more than that; LogGoneError, CorruptDeltaError
   */
  async resolve(tuples: StoredParts[], mode: Mode, maxBytes: number): Promise<number> {
    const holders = tuples.flatMap(holdersOf);
    if (holders.length === 0) return 0;
    const places = placesOf(holders);
    const bytes = places.reduce((sum, { place }) => sum + place.length, 0);
    if (bytes > maxBytes) throw new TooManyBytesError();
    const known = await resolvePlaces(
      places,
      this.tables,
      this.recent,
      (sql, parameters) => this.send(sql, parameters, mode, 2 * maxBytes + SLACK_BYTES * holders.length),
      this.metrics,
    );
    for (const [{ row }, value] of known) this.known.set(row, value);
    return bytes;
  }

  /** What is known of a blob that was read; null when it is too small to be anything's base. */
  valueOf(row: StoredBlob): RecentValue | null {
    const { blob } = row;
    const known = this.known.get(row);
    if (known !== undefined || blob === null || blob.length < MIN_BYTES) return known ?? null;
    const bytes = typeof blob === 'string' ? Buffer.from(blob, 'base64') : blob;
    return bytes.length < MIN_BYTES ? null : { bytes, crc: crc32(bytes), inLog: null };
  }
}

/** Those rows of a checkpoint whose values are elsewhere. Mostly there are none, and then nothing is made. */
function holdersOf({ key, blobs, pendingWrites, pendingSends }: StoredParts): Holder[] {
  const holders: Holder[] = [];
  for (const rows of [blobs, pendingWrites, pendingSends]) {
    for (const row of rows ?? []) {
      if (isElsewhere(row)) holders.push({ threadId: key.threadId, row, name: nameOf(key, row) });
    }
  }
  return holders;
}

function nameOf(
  { threadId, checkpointNs, checkpointId }: CheckpointKey,
  row: StoredBlob | StoredWrite,
): string {
  const what =
    'version' in row
      ? `version ${row.version} of channel ${row.channel}`
      : `write ${row.idx} of task ${row.taskId}`;
  return `${what} of checkpoint ${checkpointId} in namespace "${checkpointNs}" of thread ${threadId}`;
}
