import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { StorageKind } from '../../observability/metrics/metrics.js';
import { DELTA_TYPE } from '../domain/checkpoint.js';
import { beginsAlike, containing, difference, Effort, isWorth } from './difference.js';
import { type Operation, copy, sizeOf } from './operations.js';
import { firstRecord, type LogVersion, record, writePlace } from './place.js';
import type { InLog, RecentValue } from './recent-values.js';

/** What the statement checks: this version is there, and is this value. */
export interface Base extends LogVersion {
  crc: number;
}

export interface NewRecord extends LogVersion {
  delta: Buffer;
}

/** A value in a log, and what another one differs from it by. */
interface Found {
  base: RecentValue & { inLog: InLog };
  operations: Operation[];
}

/** What is stored in place of a value. */
interface Planned {
  kind: StorageKind;
  blob: Buffer;
  value: RecentValue;
}

interface Stored extends Planned {
  type: string;
}

/** Smaller values stay as they are, and smaller ones are no operations on those of other channels. */
export const MIN_BYTES = 2048;
const MIN_LEAF_BYTES = 4096;
/** Larger ones begin a log at once, since that costs them little: an image is in the input, in a write and in the messages. */
const MIN_LOG_BYTES = 16 * 1024;
/** Of a log at most so many times a version's bytes are read for it, each record counted as a row of so many bytes more. */
const AMPLIFICATION = 2;
const SLACK_BYTES = 8192;
export const ROW_BYTES = 256;
/** The most pieces that reading a version may come to. */
const MAX_STEPS = 1 << 20;
/** What a fork may take in place of a log of its own, of the value. */
const LEAF_SHARE = 0.1;
/** Of the values of other channels so many are tried for each one, and no longer ones are searched through. */
const MAX_TRIED = 4;
const MAX_OTHERS = 32;
const MAX_SEARCHED = 8 * 1024 * 1024;

/**
 * Decides what each value of a request is stored as: whole, or by its difference to a value that is stored already, as design and
 * figures in docs/explain/storage.md have it. What it believes of the logs is checked by the statement that stores.
 */
export class Planner {
  private readonly used = new Map<string, Base>();
  readonly records: NewRecord[] = [];
  /** Of each value that was planned. */
  readonly kinds: StorageKind[] = [];
  /** Of these values, less what is stored in their place. */
  savedBytes = 0;
  /** Of each log the number of the record that this request adds. */
  private readonly added = new Map<bigint, number>();
  private readonly others: RecentValue[];
  private readonly effort = new Effort();

  /** `own`: the values of the channels before; `others`: values of the thread that are in logs, the likeliest first. */
  constructor(
    private readonly own: ReadonlyMap<string, RecentValue>,
    others: RecentValue[],
  ) {
    this.others = others.slice(0, MAX_OTHERS);
  }

  get bases(): Base[] {
    return [...this.used.values()];
  }

  /** Null when it is too small to be anything but whole. */
  plan(channel: string, type: string, blob: Buffer): Stored | null {
    return this.planBy((value) => this.goOn(channel, value), type, blob);
  }

  /** The same for what a task wrote, which goes on in no log. */
  planWrite(channel: string, type: string, blob: Buffer): Stored | null {
    return this.planBy((value) => this.differ(channel, value), type, blob);
  }

  private planBy(first: (value: RecentValue) => Planned | null, type: string, blob: Buffer): Stored | null {
    if (blob.length < MIN_BYTES) return null;
    const value: RecentValue = { bytes: blob, crc: crc32(blob), inLog: null };
    const planned = first(value) ?? this.refer(value) ?? this.anew(value);
    if (planned.kind === 'first' || planned.kind === 'delta') {
      this.others.unshift(planned.value);
      this.others.length = Math.min(this.others.length, MAX_OTHERS);
    }
    this.kinds.push(planned.kind);
    this.savedBytes += blob.length - planned.blob.length;
    return { type: planned.kind === 'whole' ? type : DELTA_TYPE + type, ...planned };
  }

  private anew(value: RecentValue): Planned {
    return value.bytes.length < MIN_LOG_BYTES
      ? { kind: 'whole', blob: value.bytes, value }
      : this.begin(value);
  }

  /** What is written to a channel without a reducer is its next value. */
  private differ(channel: string, value: RecentValue): Planned | null {
    const base = this.own.get(channel);
    if (base === undefined || !isInLog(base)) return null;
    const operations = difference(base.bytes, value.bytes, this.effort);
    return isWorth(operations, value.bytes) ? this.leaf(base, operations, value) : null;
  }

  private refer(value: RecentValue): Planned | null {
    const { bytes } = value;
    if (bytes.length < MIN_LEAF_BYTES || bytes.length > MAX_SEARCHED) return null;
    let best: (Found & { size: number }) | null = null;
    for (const base of this.others.slice(0, MAX_TRIED)) {
      if (!isInLog(base)) continue;
      const operations = base.bytes.equals(bytes)
        ? [copy(0, bytes.length)]
        : containing(base.bytes, bytes, this.effort);
      if (operations === null) continue;
      const size = sizeOf(operations);
      if (size < (best?.size ?? Infinity)) best = { base, operations, size };
    }
    if (best === null || !isWorth(best.operations, bytes)) return null;
    return this.leaf(best.base, best.operations, value);
  }

  /**
   * The value goes on from its version before; or where that is no tip, from a value of another namespace that is: a subgraph goes on
   * in the log of its parent, and the parent then from there.
   */
  private goOn(channel: string, value: RecentValue): Planned | null {
    let append: Found | null = null;
    let leaf: Found | null = null;
    let isAlike = false;
    for (const base of this.candidates(channel, value)) {
      const operations = difference(base.bytes, value.bytes, this.effort);
      if (!isWorth(operations, value.bytes)) continue;
      isAlike = true;
      if (!isInLog(base)) continue;
      if (isEqual(operations, base, value)) return this.same(base, value);
      if (this.mayAppend(base.inLog, operations, value)) {
        append = { base, operations };
        break;
      }
      leaf ??= { base, operations };
    }
    if (append !== null) return this.append(append.base, append.operations, value);
    if (leaf !== null && sizeOf(leaf.operations) < LEAF_SHARE * value.bytes.length) {
      const { inLog } = leaf.base;
      const isFork = !inLog.isTip || this.isUsed(inLog);
      const stored = isFork ? this.leaf(leaf.base, leaf.operations, value) : null;
      if (stored !== null) return stored;
    }
    return isAlike ? this.begin(value) : null;
  }

  /** The value of the channel before, or one of another namespace that this one may go on from. */
  private *candidates(channel: string, { bytes }: RecentValue): Generator<RecentValue> {
    const own = this.own.get(channel);
    if (own !== undefined && own.bytes.length >= MIN_BYTES) yield own;
    let tried = 0;
    for (const other of this.others) {
      if (other === own || other.bytes.length > bytes.length || !beginsAlike(other.bytes, bytes)) continue;
      if ((tried += 1) > MAX_TRIED) return;
      yield other;
    }
  }

  private same(base: RecentValue & { inLog: InLog }, { bytes, crc }: RecentValue): Planned {
    this.use(base);
    return { kind: 'same', blob: writePlace(base.inLog, bytes, crc), value: base };
  }

  private mayAppend(inLog: InLog, operations: Operation[], { bytes }: RecentValue): boolean {
    return (
      inLog.isTip &&
      !this.isUsed(inLog) &&
      inLog.bytes + sizeOf(operations) + ROW_BYTES <= AMPLIFICATION * bytes.length + SLACK_BYTES &&
      (1 + inLog.splits + splitsOf(operations)) * (inLog.at + 2) <= MAX_STEPS
    );
  }

  private append(
    base: RecentValue & { inLog: InLog },
    operations: Operation[],
    { bytes, crc }: RecentValue,
  ): Planned {
    this.use(base);
    const delta = record(operations, bytes, crc);
    const inLog: InLog = {
      log: base.inLog.log,
      at: base.inLog.at + 1,
      isTip: true,
      bytes: base.inLog.bytes + delta.length + ROW_BYTES,
      splits: base.inLog.splits + splitsOf(operations),
    };
    this.add(inLog, delta);
    // Whatever else is planned meanwhile: it would lose.
    base.inLog.isTip = false;
    return { kind: 'delta', blob: writePlace(inLog, bytes, crc), value: { bytes, crc, inLog } };
  }

  private begin({ bytes, crc }: RecentValue): Planned {
    const delta = firstRecord(bytes, crc);
    const log = randomBytes(8).readBigInt64BE();
    const inLog: InLog = { log, at: 0, isTip: true, bytes: delta.length + ROW_BYTES, splits: 0 };
    this.add(inLog, delta);
    return { kind: 'first', blob: writePlace(inLog, bytes, crc), value: { bytes, crc, inLog } };
  }

  /** Null when its log is much larger, or reading it might come to too many pieces. */
  private leaf(
    base: RecentValue & { inLog: InLog },
    operations: Operation[],
    value: RecentValue,
  ): Planned | null {
    const { inLog } = base;
    if (inLog.bytes > AMPLIFICATION * value.bytes.length + SLACK_BYTES) return null;
    const copies = operations.filter(({ isCopy }) => isCopy).length;
    if (copies * (1 + inLog.splits) * (inLog.at + 2) > MAX_STEPS) return null;
    this.use(base);
    return { kind: 'leaf', blob: writePlace(inLog, value.bytes, value.crc, operations), value };
  }

  /** A record of this very request needs no check. */
  private use({ crc, inLog: { log, at } }: RecentValue & { inLog: InLog }): void {
    if (this.added.get(log) === at) return;
    this.used.set(`${log} ${at}`, { log, at, crc });
  }

  private add({ log, at }: InLog, delta: Buffer): void {
    this.records.push({ log, at, delta });
    this.savedBytes -= delta.length;
    this.added.set(log, at);
  }

  private isUsed({ log }: InLog): boolean {
    return this.added.has(log);
  }
}

function isInLog(value: RecentValue): value is RecentValue & { inLog: InLog } {
  return value.inLog !== null;
}

function isEqual([first]: Operation[], base: RecentValue, { bytes }: RecentValue): boolean {
  return (
    first?.isCopy === true &&
    first.at === 0 &&
    first.length === bytes.length &&
    bytes.length === base.bytes.length
  );
}

/** How many more pieces a value has than its base, by these operations. */
export function splitsOf(operations: Operation[]): number {
  return Math.max(0, operations.filter(({ isCopy, length }) => isCopy && length > 0).length - 1);
}
