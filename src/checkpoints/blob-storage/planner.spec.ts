import { describe, expect, it } from '@jest/globals';
import { randomBytes } from 'node:crypto';
import type { StoredThreadId } from '../domain/tenant.js';
import { storedThreadId } from '../domain/tenant.js';
import { readPlace, readRecord, valueAt } from './place.js';
import { difference, Effort } from './difference.js';
import { sizeOf } from './operations.js';
import { Planner } from './planner.js';
import { RecentValues, type RecentValue } from './recent-values.js';

/** Stores values of one channel, each after the one before, as the service does. */
class Channel {
  readonly logs = new Map<bigint, Buffer[]>();
  readonly kinds: string[] = [];
  private own = new Map<string, RecentValue>();
  written = 0;

  store(bytes: Buffer): void {
    const planner = new Planner(this.own, []);
    const stored = planner.plan('c', 't', bytes);
    if (stored === null) throw new Error('too small');
    for (const { log, at, delta } of planner.records) {
      const records = this.logs.get(log) ?? [];
      this.logs.set(log, records);
      expect(at).toBe(records.length);
      records.push(delta);
      this.written += delta.length;
    }
    this.written += stored.blob.length;
    this.kinds.push(stored.kind);
    this.own = new Map([['c', stored.value]]);
    if (stored.kind === 'whole') return;
    const records = this.logs.get(readPlace(stored.blob).log) ?? [];
    expect(valueAt(stored.blob, records.map(readRecord)).equals(bytes)).toBe(true);
    const read = records.reduce((sum, record) => sum + record.length, 0);
    expect(read).toBeLessThanOrEqual(2 * bytes.length + 8192);
  }
}

describe('a value that goes on', () => {
  it('takes what is new, however often it is appended to', () => {
    const channel = new Channel();
    let value = randomBytes(2500);
    for (let n = 0; n < 300; n += 1) channel.store((value = Buffer.concat([value, randomBytes(700)])));
    expect(channel.logs.size).toBe(1);
    expect(channel.written).toBeLessThan(1.2 * value.length);
  });

  it('takes at most twice what came in when it is a window that slides', () => {
    const channel = new Channel();
    const all = randomBytes(200_000);
    let arrived = 20_000;
    for (; arrived < all.length; arrived += 1400) channel.store(all.subarray(arrived - 20_000, arrived));
    expect(channel.written).toBeLessThan(2.2 * arrived);
  });

  it('takes no more than whole when it has nothing in common with the one before', () => {
    const channel = new Channel();
    for (let n = 0; n < 10; n += 1) channel.store(randomBytes(5000));
    expect(new Set(channel.kinds)).toEqual(new Set(['whole']));
    expect(channel.written).toBe(50_000);
  });

  it('begins a new log before the pieces of a version become too many to be read', () => {
    const channel = new Channel();
    const value = Buffer.from(randomBytes(150_000));
    let records = 0;
    for (let n = 0; n < 90; n += 1) {
      for (let at = n * 7; at < value.length; at += 601) value[at] = (value[at] as number) ^ 1;
      channel.store(Buffer.from(value));
      records = Math.max(records, ...[...channel.logs.values()].map(({ length }) => length));
    }
    // Each version has 250 pieces more than the one before.
    expect(records * records * 250).toBeLessThan(2 ** 20 + 2 ** 18);
    expect(channel.logs.size).toBeGreaterThan(1);
  });
});

describe('a value that has little to do with its base', () => {
  const inLog = { log: 1n, at: 0, isTip: false, bytes: 1_000_000, splits: 0 };
  const base: RecentValue = { bytes: randomBytes(1_000_000), crc: 0, inLog };

  it('is not stored by a log that is much larger', () => {
    const planner = new Planner(new Map([['c', base]]), []);
    const value = Buffer.concat([base.bytes.subarray(0, 9000), randomBytes(20)]);
    expect(planner.plan('c', 't', value)).toMatchObject({ kind: 'first' });
    const writes = new Planner(new Map([['c', base]]), []);
    expect(writes.planWrite('c', 't', base.bytes.subarray(0, 9000))).toMatchObject({ kind: 'whole' });
  });

  it('is looked through for blocks until the request has used up what it may', () => {
    const old = randomBytes(400_000);
    const turned = Buffer.concat([
      randomBytes(8),
      old.subarray(200_000),
      old.subarray(0, 200_000),
      randomBytes(8),
    ]);
    const effort = new Effort();
    const sizes = Array.from({ length: 4 }, () => sizeOf(difference(old, turned, effort)));
    expect(sizes.slice(0, 2).every((size) => size < 250_000)).toBe(true);
    expect(sizes.slice(2).every((size) => size > 399_000)).toBe(true);
  });
});

describe('the values that were stored last', () => {
  const thread = (tenant: string, id: string) => storedThreadId(tenant, id) as StoredThreadId;
  const set = (values: RecentValues, threadId: StoredThreadId, bytes: number) => {
    const value = { bytes: Buffer.alloc(bytes), crc: 0, inLog: null };
    values.set(threadId, '', { checkpointId: '1', values: new Map([['c', value]]) });
  };
  const has = (values: RecentValues, threadId: StoredThreadId) =>
    values.checkpoint(threadId, '', '1') !== null;

  it('keep to their bytes, and forget the thread that was used longest ago', () => {
    const values = new RecentValues(10_000);
    for (const id of ['1', '2', '3', '4']) {
      set(values, thread('', id), 3000);
      expect(has(values, thread('', '1'))).toBe(true); // used each time
      expect(values.bytes).toBeLessThanOrEqual(10_000);
    }
    expect(has(values, thread('', '2'))).toBe(false);
    expect(has(values, thread('', '4'))).toBe(true);
    set(values, thread('', 'large'), 20_000);
    expect(has(values, thread('', 'large'))).toBe(false);
    expect(values.bytes).toBeLessThanOrEqual(10_000);
  });

  it('of a tenant that stores much displace no other tenant from its share', () => {
    const values = new RecentValues(100_000);
    for (let n = 0; n < 4; n += 1) set(values, thread('quiet', `${n}`), 10_000);
    for (let n = 0; n < 100; n += 1) set(values, thread('loud', `${n}`), 10_000);
    expect([0, 1, 2, 3].map((n) => has(values, thread('quiet', `${n}`)))).toEqual(Array(4).fill(true));
    expect(has(values, thread('loud', '99'))).toBe(true);
  });

  it('keep no more than their own bytes of what they came in', () => {
    const body = Buffer.alloc(1_000_000, 'x');
    const value = { bytes: body.subarray(1000, 4000), crc: 0, inLog: null };
    new RecentValues(100_000).set(thread('', 't'), '', {
      checkpointId: '1',
      values: new Map([['c', value]]),
    });
    expect(value.bytes.buffer.byteLength).toBe(3000);
    expect(value.bytes.equals(body.subarray(1000, 4000))).toBe(true);
    const written = { bytes: body.subarray(1000, 4000), crc: 0, inLog: null };
    const values = new RecentValues(100_000);
    values.set(thread('', 't'), '', { checkpointId: '1', values: new Map() });
    values.add(thread('', 't'), '', '1', [written]);
    expect(written.bytes.buffer.byteLength).toBe(3000);
  });

  it('are found by nobody but their own thread', () => {
    const values = new RecentValues(100_000);
    const inLog = { log: 7n, at: 0, isTip: true, bytes: 1, splits: 0 };
    const value = { bytes: Buffer.alloc(10), crc: 0, inLog };
    values.set(thread('a', 't'), '', { checkpointId: '1', values: new Map([['c', value]]) });
    expect(values.at(thread('a', 't'), { log: 7n, at: 0 })).toBe(value);
    expect(values.at(thread('b', 't'), { log: 7n, at: 0 })).toBeNull();
    expect(values.at(thread('', 't'), { log: 7n, at: 0 })).toBeNull();
  });
});
