import { type StoredThreadId, tenantOfThread } from '../domain/tenant.js';
import type { LogVersion } from './place.js';

/** A version in a log, with what reading it takes. */
export interface InLog extends LogVersion {
  /** No record of the log comes after it, as far as is known. */
  isTip: boolean;
  /** Of the records up to it, in bytes, with what a row takes. */
  bytes: number;
  /** How often these records copy, beyond once each. */
  splits: number;
}

/** A value that is known to be stored; `inLog` is null when it stands whole, or as operations, where it belongs. */
export interface RecentValue {
  bytes: Buffer;
  crc: number;
  inLog: InLog | null;
}

/** The values of a checkpoint by channel. */
export interface RecentCheckpoint {
  checkpointId: string;
  values: Map<string, RecentValue>;
  /** What its tasks wrote, where that is in logs: the next values may hold it. */
  written?: RecentValue[];
}

/** Of a thread, by namespace; the one that was used last is the last. */
interface Thread {
  namespaces: Map<string, RecentCheckpoint>;
  /** Those in logs, by log and number. */
  versions: Map<string, RecentValue>;
  bytes: number;
}

interface Tenant {
  /** The one that was used last is the last. */
  threads: Map<StoredThreadId, Thread>;
  bytes: number;
}

/** What a value costs beside its bytes. */
const OVERHEAD = 256;
/** Of subgraphs, each call has one. */
const MAX_NAMESPACES = 8;
/** Of writes of a checkpoint. */
const MAX_WRITTEN = 8;

/**
 * The values of the last checkpoints of threads, within so many bytes. A tenant that has more than its share of them loses its own
 * first. What is in here may be older than what is stored: whoever uses it has the statement check that.
 */
export class RecentValues {
  private readonly tenants = new Map<string, Tenant>();
  bytes = 0;

  constructor(private readonly maxBytes: number) {}

  /** That of a namespace, when it is the checkpoint with that id. */
  checkpoint(threadId: StoredThreadId, ns: string, checkpointId: string): RecentCheckpoint | null {
    const found = this.threadOf(threadId)?.namespaces.get(ns);
    return found?.checkpointId === checkpointId ? found : null;
  }

  /** The values of a thread that are in logs, those of the namespace that was used last first. */
  inLogs(threadId: StoredThreadId): RecentValue[] {
    const namespaces = [...(this.threadOf(threadId)?.namespaces.values() ?? [])].reverse();
    return namespaces.flatMap((checkpoint) => valuesOf(checkpoint).filter(({ inLog }) => inLog !== null));
  }

  /** The value at that version of a log. */
  at(threadId: StoredThreadId, { log, at }: LogVersion): RecentValue | null {
    return this.threadOf(threadId)?.versions.get(`${log} ${at}`) ?? null;
  }

  set(threadId: StoredThreadId, ns: string, checkpoint: RecentCheckpoint): void {
    const thread: Thread = this.threadOf(threadId) ?? {
      namespaces: new Map(),
      versions: new Map(),
      bytes: 0,
    };
    const newest = newestOf(checkpoint.values);
    for (const { values } of thread.namespaces.values()) retire(values, newest);
    for (const value of valuesOf(checkpoint)) keepAlone(value);
    thread.namespaces.delete(ns);
    thread.namespaces.set(ns, checkpoint);
    const [oldest] = thread.namespaces.keys();
    if (thread.namespaces.size > MAX_NAMESPACES && oldest !== undefined) thread.namespaces.delete(oldest);
    this.forget(threadId);
    thread.bytes = bytesOf(thread);
    thread.versions = versionsOf(thread);
    if (thread.bytes > this.maxBytes) return;
    const tenant = tenantOfThread(threadId);
    const owner = this.tenants.get(tenant) ?? { threads: new Map(), bytes: 0 };
    this.tenants.set(tenant, owner);
    owner.threads.set(threadId, thread);
    owner.bytes += thread.bytes;
    this.bytes += thread.bytes;
    while (this.bytes > this.maxBytes) this.forgetOne(tenant);
  }

  /** Adds what tasks wrote to their checkpoint, when it is the last one of its namespace. */
  add(threadId: StoredThreadId, ns: string, checkpointId: string, written: RecentValue[]): void {
    const checkpoint = this.checkpoint(threadId, ns, checkpointId);
    if (checkpoint === null || written.length === 0) return;
    const all = [...written, ...(checkpoint.written ?? [])].slice(0, MAX_WRITTEN);
    this.set(threadId, ns, { ...checkpoint, written: all });
  }

  forget(threadId: StoredThreadId): void {
    const tenant = tenantOfThread(threadId);
    const owner = this.tenants.get(tenant);
    const thread = owner?.threads.get(threadId);
    if (owner === undefined || thread === undefined) return;
    owner.threads.delete(threadId);
    owner.bytes -= thread.bytes;
    this.bytes -= thread.bytes;
    if (owner.threads.size === 0) this.tenants.delete(tenant);
  }

  private threadOf(threadId: StoredThreadId): Thread | undefined {
    const threads = this.tenants.get(tenantOfThread(threadId))?.threads;
    const thread = threads?.get(threadId);
    if (threads === undefined || thread === undefined) return undefined;
    threads.delete(threadId);
    threads.set(threadId, thread);
    return thread;
  }

  /** The thread that was used longest ago: of the tenant, if it has more than its share, else of the one that has most. */
  private forgetOne(tenant: string): void {
    const share = this.maxBytes / this.tenants.size;
    let owner = this.tenants.get(tenant);
    if (owner === undefined || owner.bytes <= share) {
      for (const other of this.tenants.values()) if (other.bytes > (owner?.bytes ?? -1)) owner = other;
    }
    const [oldest] = owner?.threads.keys() ?? [];
    if (oldest !== undefined) this.forget(oldest);
  }
}

/** A piece of a larger buffer, such as the body of a request, would keep all of that. */
function keepAlone(value: RecentValue): void {
  const { bytes } = value;
  if (bytes.buffer.byteLength <= 1.25 * bytes.length) return;
  const own = Buffer.allocUnsafeSlow(bytes.length);
  bytes.copy(own);
  value.bytes = own;
}

function valuesOf({ values, written = [] }: RecentCheckpoint): RecentValue[] {
  return [...values.values(), ...written];
}

/** The number of the last version of each log. */
function newestOf(values: Map<string, RecentValue>): Map<bigint, number> {
  const newest = new Map<bigint, number>();
  for (const { inLog } of values.values()) {
    if (inLog !== null) newest.set(inLog.log, Math.max(inLog.at, newest.get(inLog.log) ?? 0));
  }
  return newest;
}

/** Versions that others now come after in their log are no tips any more. */
function retire(values: Map<string, RecentValue>, newest: Map<bigint, number>): void {
  for (const { inLog } of values.values()) {
    if (inLog !== null && (newest.get(inLog.log) ?? 0) > inLog.at) inLog.isTip = false;
  }
}

function versionsOf({ namespaces }: Thread): Map<string, RecentValue> {
  const versions = new Map<string, RecentValue>();
  for (const checkpoint of namespaces.values()) {
    for (const value of valuesOf(checkpoint)) {
      if (value.inLog !== null) versions.set(`${value.inLog.log} ${value.inLog.at}`, value);
    }
  }
  return versions;
}

function bytesOf({ namespaces }: Thread): number {
  const seen = new Set<Buffer>();
  let bytes = 0;
  for (const [ns, checkpoint] of namespaces) {
    bytes += OVERHEAD + 2 * (ns.length + checkpoint.checkpointId.length);
    for (const channel of checkpoint.values.keys()) bytes += 2 * channel.length;
    for (const value of valuesOf(checkpoint)) {
      bytes += OVERHEAD + (seen.has(value.bytes) ? 0 : value.bytes.length);
      seen.add(value.bytes);
    }
  }
  return bytes;
}
