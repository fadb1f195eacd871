import { copy, insert, type Operation, sizeOf } from './operations.js';

/**
 * How a value differs from another one, found by comparing bytes. What agents store is mostly the value before with something
 * at its end, behind a header that counts (msgpack's array, of at most 16 bytes); else a few places in it have changed.
 */

/** The header of a list, and what closes it, in bytes. */
const HEAD = 16;
const TAIL = 8;
/** Of blocks that are looked for in a middle that changed, in bytes. */
const BLOCK = 32;
/** A middle of more bytes is not looked through: that takes 10 to 20 ms of the event loop for each MiB. */
const MAX_MIDDLE = 512 * 1024;
/** What is searched for of a value that another one may contain; where in it, and how often. */
const NEEDLE = 24;
const NEEDLE_AT = 0.382;
const MAX_HITS = 64;
/** Shorter ones are not searched for. */
const MIN_CONTAINED = 512;

/** What may still be looked through for one request, in bytes: some 120 ms of the event loop for blocks, 20 ms for pieces. */
export class Effort {
  blocks = 2 * 1024 * 1024;
  contained = 16 * 1024 * 1024;
}

/** The operations that make `value` out of `base`. */
export function difference(base: Buffer, value: Buffer, effort = new Effort()): Operation[] {
  if (base.equals(value)) return [copy(0, base.length)];
  return appended(base, value) ?? spliced(base, value, effort);
}

/** The value is the base with more at its end, behind a header that may have changed and grown. */
function appended(base: Buffer, value: Buffer): Operation[] | null {
  if (base.length < HEAD + TAIL + NEEDLE) return null;
  for (const shift of [0, 2, 1, 4, -2]) {
    const same = commonPrefix(base, HEAD, value, HEAD + shift);
    if (same < base.length - HEAD - TAIL) continue;
    const rest = insert(HEAD + shift + same, value.length - HEAD - shift - same);
    if (shift === 0) {
      const head = commonPrefix(base, 0, value, 0);
      if (head >= HEAD) return [copy(0, HEAD + same), rest];
    }
    return [insert(0, HEAD + shift), copy(HEAD, same), rest];
  }
  return null;
}

function spliced(base: Buffer, value: Buffer, effort: Effort): Operation[] {
  const begin = commonPrefix(base, 0, value, 0);
  const end = commonSuffix(base, value, Math.min(base.length, value.length) - begin);
  const middle = value.length - begin - end;
  const old = base.length - begin - end;
  const hasBlocks =
    middle > 256 &&
    old >= BLOCK &&
    middle <= MAX_MIDDLE &&
    old <= Math.min(MAX_MIDDLE, 16 * middle) &&
    middle + old <= effort.blocks;
  if (hasBlocks) effort.blocks -= middle + old;
  return [
    copy(0, begin),
    ...(hasBlocks ? blocks(base, begin, begin + old, value, begin, begin + middle) : [insert(begin, middle)]),
    copy(base.length - end, end),
  ];
}

const FACTOR = 0x01000193;
/** Of the byte that leaves the window. */
const LEAVING = Array.from({ length: BLOCK - 1 }).reduce<number>((power) => Math.imul(power, FACTOR), 1);

/**
 * Blocks of a part of the base that occur in a part of the value, grown to both sides, as rsync finds them; but in order, and each byte
 * of the base once, so that what reading takes adds up along a log and does not multiply.
 */
function blocks(
  base: Buffer,
  from: number,
  to: number,
  value: Buffer,
  start: number,
  stop: number,
): Operation[] {
  const count = Math.floor((to - from) / BLOCK);
  const bits = Math.max(4, Math.ceil(Math.log2(2 * count)));
  const slots = new Int32Array(1 << bits).fill(-1);
  const slotOf = (hash: number) => Math.imul(hash, 0x9e3779b1) >>> (32 - bits);
  // From the last one on, so that of equal blocks the first one stays.
  for (let n = count - 1; n >= 0; n -= 1) slots[slotOf(hashOf(base, from + n * BLOCK))] = from + n * BLOCK;
  const operations: Operation[] = [];
  let inserted = start;
  /** Where the last copy ends in the base. */
  let copied = from;
  let at = start;
  let hash = at + BLOCK <= stop ? hashOf(value, at) : 0;
  while (at + BLOCK <= stop) {
    const found = slots[slotOf(hash)] as number;
    if (found >= copied && base.compare(value, at, at + BLOCK, found, found + BLOCK) === 0) {
      let back = 0;
      while (
        at - back > inserted &&
        found - back > copied &&
        base[found - back - 1] === value[at - back - 1]
      ) {
        back += 1;
      }
      const length =
        back +
        BLOCK +
        commonPrefix(base, found + BLOCK, value, at + BLOCK, Math.min(to - found, stop - at) - BLOCK);
      operations.push(insert(inserted, at - back - inserted), copy(found - back, length));
      at += length - back;
      inserted = at;
      copied = found - back + length;
      if (at + BLOCK <= stop) hash = hashOf(value, at);
    } else {
      hash =
        (Math.imul((hash - Math.imul(value[at] as number, LEAVING)) | 0, FACTOR) + (value[at + BLOCK] ?? 0)) |
        0;
      at += 1;
    }
  }
  operations.push(insert(inserted, stop - inserted));
  return operations;
}

function hashOf(bytes: Buffer, at: number): number {
  let hash = 0;
  for (let n = at; n < at + BLOCK; n += 1) hash = (Math.imul(hash, FACTOR) + (bytes[n] as number)) | 0;
  return hash;
}

/**
 * The operations that make `value` out of `base` when it contains that as a whole but for its ends, as a Send contains the messages
 * of its state; null: it does not.
 */
export function containing(base: Buffer, value: Buffer, effort = new Effort()): Operation[] | null {
  const length = base.length - HEAD - TAIL;
  if (length < MIN_CONTAINED || length > value.length || value.length > effort.contained) return null;
  effort.contained -= value.length;
  const lead = Math.floor(length * NEEDLE_AT);
  const needle = base.subarray(HEAD + lead, HEAD + lead + NEEDLE);
  const operations: Operation[] = [];
  let from = 0;
  let hit = value.indexOf(needle, lead);
  for (let tries = 0; hit >= 0 && tries < MAX_HITS; tries += 1) {
    const at = hit - lead;
    const isWhole =
      at >= from &&
      at + length <= value.length &&
      value.compare(base, HEAD, HEAD + length, at, at + length) === 0;
    if (isWhole) {
      operations.push(insert(from, at - from), copy(HEAD, length));
      from = at + length;
    }
    hit = value.indexOf(needle, isWhole ? from + lead : hit + 1);
  }
  return from === 0 ? null : [...operations, insert(from, value.length - from)];
}

/** Whether one may go on from the other: it begins alike, behind a header. */
export function beginsAlike(base: Buffer, value: Buffer): boolean {
  if (base.length < HEAD + 64 || value.length < HEAD + 66) return false;
  return [0, 2].some((shift) => base.compare(value, HEAD + shift, HEAD + shift + 64, HEAD, HEAD + 64) === 0);
}

/** Whether so many bytes less are worth a delta. */
export function isWorth(operations: Operation[], value: Buffer): boolean {
  return sizeOf(operations) <= 0.7 * value.length;
}

/** How many bytes are the same from there on, at most `max`. */
function commonPrefix(a: Buffer, atA: number, b: Buffer, atB: number, max = Infinity): number {
  const end = Math.min(a.length - atA, b.length - atB, max);
  let same = 0;
  for (let step = 65_536; step >= 64; step >>= 2) {
    while (
      same + step <= end &&
      a.compare(b, atB + same, atB + same + step, atA + same, atA + same + step) === 0
    ) {
      same += step;
    }
  }
  while (same < end && a[atA + same] === b[atB + same]) same += 1;
  return Math.max(same, 0);
}

function commonSuffix(a: Buffer, b: Buffer, max: number): number {
  let same = 0;
  for (let step = 65_536; step >= 64; step >>= 2) {
    while (
      same + step <= max &&
      a.compare(b, b.length - same - step, b.length - same, a.length - same - step, a.length - same) === 0
    ) {
      same += step;
    }
  }
  while (same < max && a[a.length - 1 - same] === b[b.length - 1 - same]) same += 1;
  return same;
}
