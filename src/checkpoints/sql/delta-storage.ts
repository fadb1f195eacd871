import type { DeltaMetrics } from '../../observability/metrics/metrics.js';
import { MIN_BYTES, Planner } from '../blob-storage/planner.js';
import type { RecentCheckpoint, RecentValue, RecentValues } from '../blob-storage/recent-values.js';
import type { ChannelBlob, CheckpointKey, NewCheckpoint, PendingWrite } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import type { Deltas } from './store.statement.js';
import type { StoredParts, StoredValues } from './stored-values.js';

/** Reads a checkpoint with its blobs. */
type Find = (threadId: StoredThreadId, ns: string, id: string) => Promise<StoredParts | null>;
/** What is looked at of a checkpoint. */
type Planned = Pick<NewCheckpoint, 'key' | 'parentCheckpointId' | 'blobs'>;

/** Of writes that are smaller together nothing is read to find what they have in common with. */
const MIN_LOOK_UP_BYTES = 16 * 1024;
const NONE: ReadonlyMap<string, RecentValue> = new Map();

/** Stores what is new to a value, where that is less. Without deltas, and whenever they do not fit, values are stored whole. */
export class DeltaStorage {
  constructor(
    private readonly recent: RecentValues,
    private readonly values: StoredValues,
    private readonly find: Find,
    private readonly metrics: DeltaMetrics,
  ) {}

  /** Sends the checkpoint with its blobs as they are to be stored; once more, whole, when the logs are not what they were believed to be. */
  async checkpoint<New extends Planned>(
    checkpoint: New,
    send: (checkpoint: New, deltas?: Deltas) => Promise<void>,
  ): Promise<void> {
    const { key, parentCheckpointId: parent } = checkpoint;
    const isLarge = checkpoint.blobs.some(({ blob }) => blob !== null && blob.length >= MIN_BYTES);
    const own =
      (parent === null
        ? undefined
        : (await this.valuesOf({ ...key, checkpointId: parent }, isLarge))?.values) ?? NONE;
    const planner = new Planner(own, this.candidates(key.threadId, own));
    const values = new Map(own);
    const blobs = new Map<ChannelBlob, ChannelBlob>();
    // Those with a value before come first: a Send contains what another channel gets in the same request.
    const ordered = checkpoint.blobs.toSorted(
      (a, b) => Number(own.has(b.channel)) - Number(own.has(a.channel)),
    );
    for (const blob of ordered) {
      const stored = blob.blob === null ? null : planner.plan(blob.channel, blob.type, blob.blob);
      if (stored === null) {
        values.delete(blob.channel);
        continue;
      }
      values.set(blob.channel, stored.value);
      blobs.set(blob, { ...blob, type: stored.type, blob: stored.blob });
    }
    const isStored = await this.store(
      key.threadId,
      planner,
      () => send(checkpoint),
      (deltas) =>
        send({ ...checkpoint, blobs: checkpoint.blobs.map((blob) => blobs.get(blob) ?? blob) }, deltas),
    );
    if (isStored && values.size > 0) {
      this.recent.set(key.threadId, key.checkpointNs, { checkpointId: key.checkpointId, values });
    }
  }

  /** The same for writes. */
  async writes<New extends Pick<PendingWrite, 'channel' | 'type' | 'blob'>>(
    key: CheckpointKey,
    writes: New[],
    send: (writes: New[], deltas?: Deltas) => Promise<void>,
  ): Promise<void> {
    const large = writes.filter(({ blob }) => blob.length >= MIN_BYTES);
    if (large.length === 0) return send(writes);
    const bytes = large.reduce((sum, { blob }) => sum + blob.length, 0);
    const own = (await this.valuesOf(key, bytes >= MIN_LOOK_UP_BYTES))?.values ?? NONE;
    const planner = new Planner(own, this.candidates(key.threadId, own));
    const written: RecentValue[] = [];
    const planned = writes.map((write) => {
      const stored = write.type === null ? null : planner.planWrite(write.channel, write.type, write.blob);
      if (stored === null) return write;
      if (stored.kind === 'first') written.push(stored.value);
      return { ...write, type: stored.type, blob: stored.blob };
    });
    const isStored = await this.store(
      key.threadId,
      planner,
      () => send(writes),
      (deltas) => send(planned, deltas),
    );
    if (isStored) this.recent.add(key.threadId, key.checkpointNs, key.checkpointId, written);
  }

  /** What is read is likely to be gone on from. */
  read({ key, blobs }: StoredParts): RecentCheckpoint | null {
    if (blobs === undefined) return null;
    const values = new Map<string, RecentValue>();
    for (const blob of blobs) {
      const value = this.values.valueOf(blob);
      if (value !== null) values.set(blob.channel, value);
    }
    const checkpoint = { checkpointId: key.checkpointId, values };
    if (values.size > 0) this.recent.set(key.threadId, key.checkpointNs, checkpoint);
    return checkpoint;
  }

  /** Values of the thread that are in logs, first those of the checkpoint that it goes on from. */
  private candidates(threadId: StoredThreadId, own: ReadonlyMap<string, RecentValue>): RecentValue[] {
    const first = [...own.values()].filter(({ inLog }) => inLog !== null);
    return [...new Set([...first, ...this.recent.inLogs(threadId)])];
  }

  /** The values of a checkpoint, from memory, or else read when that `isWorth` it. */
  private async valuesOf(
    { threadId, checkpointNs, checkpointId }: CheckpointKey,
    isWorth: boolean,
  ): Promise<RecentCheckpoint | null> {
    const known = this.recent.checkpoint(threadId, checkpointNs, checkpointId);
    if (known !== null || !isWorth) return known;
    try {
      const tuple = await this.find(threadId, checkpointNs, checkpointId);
      return tuple === null ? null : this.read(tuple);
    } catch {
      return null; // too large, or not to be had now: without it the value is stored whole
    }
  }

  /** Sends the request as it was planned, or whole. False: it did not fit, and was sent again whole. */
  private async store(
    threadId: StoredThreadId,
    planner: Planner,
    sendWhole: () => Promise<void>,
    sendPlanned: (deltas: Deltas) => Promise<void>,
  ): Promise<boolean> {
    const deltas = { bases: planner.bases, records: planner.records, isLost: false };
    await (deltas.bases.length + deltas.records.length === 0 ? sendWhole() : sendPlanned(deltas));
    if (deltas.isLost) {
      this.metrics.stored.add('lost');
      this.recent.forget(threadId);
      await sendWhole();
      return false;
    }
    for (const kind of planner.kinds) this.metrics.stored.add(kind);
    this.metrics.savedBytes += Math.max(0, planner.savedBytes);
    return true;
  }
}
