/**
 * A value as operations on another one, its base: some bytes are copied from there, the others are inserted. Written down, each
 * operation is a varint, twice the number of its bytes, odd when they are inserted; then the offset in the base as a varint, or the bytes.
 * As `fossil-delta` and VCDIFF have it; nothing is known of what the bytes mean.
 */

/** `at` is an offset in the base, or in the value itself when the bytes are inserted. */
export interface Operation {
  isCopy: boolean;
  at: number;
  length: number;
}

/** What is stored is not what was: no value can be made of it. */
export class CorruptDeltaError extends Error {}

export function copy(at: number, length: number): Operation {
  return { isCopy: true, at, length };
}

export function insert(at: number, length: number): Operation {
  return { isCopy: false, at, length };
}

/** How many bytes `writeOperations` needs. */
export function sizeOf(operations: Operation[]): number {
  let size = 0;
  for (const { isCopy, at, length } of operations) {
    if (length > 0) size += varintSize(2 * length) + (isCopy ? varintSize(at) : length);
  }
  return size;
}

/** The operations behind `head` bytes that the caller fills. */
export function writeOperations(operations: Operation[], value: Buffer, head: number): Buffer {
  const out = Buffer.allocUnsafeSlow(head + sizeOf(operations));
  let end = head;
  for (const { isCopy, at, length } of operations) {
    if (length === 0) continue;
    end = putVarint(out, end, 2 * length + (isCopy ? 0 : 1));
    if (isCopy) end = putVarint(out, end, at);
    else end += value.copy(out, end, at, at + length);
  }
  return out;
}

/** Operations as they are read: what is inserted lies at `at` in `bytes`. `ends[n]` is where in the value the n-th one ends. */
export interface Level {
  bytes: Buffer;
  operations: Operation[];
  ends: number[];
  /** Of the value. */
  length: number;
}

/** @throws CorruptDeltaError */
export function readOperations(bytes: Buffer, head: number): Level {
  const operations: Operation[] = [];
  const ends: number[] = [];
  let at = head;
  let length = 0;
  const varint = () => {
    let number = 0;
    for (let factor = 1; factor <= 2 ** 42; factor *= 128) {
      const byte = bytes[at];
      at += 1;
      if (byte === undefined) break;
      number += (byte & 127) * factor;
      if (byte < 128) return number;
    }
    throw new CorruptDeltaError('an operation ends early');
  };
  while (at < bytes.length) {
    const head = varint();
    const operation = { isCopy: head % 2 === 0, at: 0, length: Math.floor(head / 2) };
    if (operation.length === 0) throw new CorruptDeltaError('an operation is empty');
    if (operation.isCopy) operation.at = varint();
    else {
      operation.at = at;
      at += operation.length;
      if (at > bytes.length) throw new CorruptDeltaError('an insert ends early');
    }
    length += operation.length;
    operations.push(operation);
    ends.push(length);
  }
  return { bytes, operations, ends, length };
}

/** Bytes that are still to be found: so many from `from` on in a value, which go to `to`. */
interface Wanted {
  from: number;
  to: number;
  length: number;
}

/**
 * The value of the last level, each of which has the one before as its base; the first one copies nothing. From the last level
 * backwards each byte is copied once: forwards, 2,000 appends behind a head that changes each time took 57 ms instead of 2.
 *
 * @throws CorruptDeltaError when a level copies what is not there
 */
export function resolve(levels: Level[]): Buffer {
  const { length = 0 } = levels.at(-1) ?? {};
  const value = Buffer.allocUnsafeSlow(length);
  let wanted: Wanted[] = length > 0 ? [{ from: 0, to: 0, length }] : [];
  for (const level of levels.toReversed()) {
    if (wanted.length === 0) break;
    wanted = takeFrom(level, wanted, value);
  }
  if (wanted.length > 0) throw new CorruptDeltaError('a log has no beginning');
  return value;
}

/** Copies what the level inserts into the value; returns what it copies from its base. */
function takeFrom({ bytes, operations, ends, length }: Level, wanted: Wanted[], value: Buffer): Wanted[] {
  const next: Wanted[] = [];
  let n = 0;
  for (const { from, to, length: count } of wanted) {
    if (from + count > length) throw new CorruptDeltaError('an operation copies what is not there');
    // Mostly in order; else the search begins anew.
    if ((ends[n] ?? 0) - (operations[n]?.length ?? 0) > from) n = 0;
    n = firstBeyond(ends, from, n);
    for (let done = 0; done < count; n += 1) {
      const operation = operations[n] as Operation;
      const end = ends[n] as number;
      const skipped = from + done - (end - operation.length);
      const taken = Math.min(operation.length - skipped, count - done);
      const at = operation.at + skipped;
      if (!operation.isCopy) bytes.copy(value, to + done, at, at + taken);
      else {
        const last = next.at(-1);
        if (last !== undefined && last.from + last.length === at && last.to + last.length === to + done) {
          last.length += taken;
        } else next.push({ from: at, to: to + done, length: taken });
      }
      done += taken;
      // The next one wanted may begin in the same operation.
      if (done === count) break;
    }
  }
  return next;
}

/** The first of `ends`, from the n-th on, that lies beyond `from`: the next few are tried, then it is searched for. */
function firstBeyond(ends: number[], from: number, n: number): number {
  for (let tries = 0; tries < 8; tries += 1, n += 1) if ((ends[n] ?? Infinity) > from) return n;
  let low = n;
  let high = ends.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ends[middle] as number) > from) high = middle;
    else low = middle + 1;
  }
  return low;
}

function varintSize(number: number): number {
  let size = 1;
  for (; number >= 128; number = Math.floor(number / 128)) size += 1;
  return size;
}

function putVarint(out: Buffer, at: number, number: number): number {
  for (; number >= 128; number = Math.floor(number / 128)) {
    out[at] = (number % 128) | 128;
    at += 1;
  }
  out[at] = number;
  return at + 1;
}
