import { setTimeout as delay } from 'node:timers/promises';
import type { DeltaStatus } from '../checkpoints/sql/delta-status.js';
import type { PlacedRow } from '../checkpoints/sql/thread-values.js';
import { callersThreadId, type StoredThreadId, tenantOfThread } from '../checkpoints/domain/tenant.js';

const PROGRESS_MS = 5000;

/** Says on standard error how far a command is, every few seconds. */
export class Progress {
  private readonly began = Date.now();
  private told = this.began;

  tell(values: number, text: string): void {
    const now = Date.now();
    if (now - this.told < PROGRESS_MS) return;
    this.told = now;
    console.error(`${values} values, ${Math.round(values / this.seconds())}/s: ${text}`);
  }

  /** Waits until that many values are no more than so many in a second. */
  async slowDownTo(rate: number, values: number): Promise<void> {
    const waitMs = 1000 * (values / rate - this.seconds());
    if (waitMs > 0) await delay(waitMs);
  }

  private seconds(): number {
    return (Date.now() - this.began) / 1000;
  }
}

/** A value that cannot be read, or a log without a channel. The names are those of the HTTP API. */
export interface Broken {
  tenant: string;
  thread_id: string;
  checkpoint_ns?: string;
  channel?: string;
  version?: string;
  checkpoint_id?: string;
  task_id?: string;
  idx?: number;
  reason: string;
}

export function brokenOf(
  threadId: StoredThreadId,
  { row, reason }: { row: PlacedRow | null; reason: string },
): Broken {
  const of = { tenant: tenantOfThread(threadId), thread_id: callersThreadId(threadId) };
  if (row === null) return { ...of, reason };
  const { table, ns: checkpoint_ns, channel, key } = row;
  const [first = '', second = '', third = ''] = key;
  return {
    ...of,
    ...{ checkpoint_ns, channel },
    ...(table === 'blobs'
      ? { version: second }
      : { checkpoint_id: first, task_id: second, idx: Number(third) }),
    reason,
  };
}

export function textOf({ reason, ...names }: Broken): string {
  return `${Object.entries(names)
    .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    .join(', ')}: ${reason}`;
}

export function totalOf(tenants: DeltaStatus[]): { values: number; bytes: number; recordBytes: number } {
  const sum = { values: 0, bytes: 0, recordBytes: 0 };
  for (const { blobs, writes, value_bytes: bytes, record_bytes: recordBytes } of tenants) {
    sum.values += blobs + writes;
    sum.bytes += bytes;
    sum.recordBytes += recordBytes;
  }
  return sum;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
