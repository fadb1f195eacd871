import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { crc32 } from 'node:zlib';
import { containing, difference } from './difference.js';
import {
  CorruptDeltaError,
  type Operation,
  readOperations,
  resolve,
  sizeOf,
  writeOperations,
} from './operations.js';
import { firstRecord, PLACE_BYTES, readPlace, readRecord, record, valueAt, writePlace } from './place.js';

/** Texts that have much in common: pieces of one alphabet of lines, cut, put together, edited. */
const line = fc.constantFrom(
  ...Array.from({ length: 40 }, (_, n) => `${n}: ${'abcdefghij'.repeat(1 + (n % 7))}\n`),
);
const value = fc
  .array(fc.oneof(line, fc.string({ maxLength: 40 })), { maxLength: 120 })
  .map((lines) => Buffer.from(lines.join('')));

function apply(base: Buffer, operations: Operation[], made: Buffer): Buffer {
  const whole = readOperations(writeOperations([{ isCopy: false, at: 0, length: base.length }], base, 0), 0);
  return resolve([whole, readOperations(writeOperations(operations, made, 0), 0)]);
}

describe('difference', () => {
  it('makes the value out of any base, and copies each byte of it once, in order', () => {
    fc.assert(
      fc.property(value, value, (base, made) => {
        const operations = difference(base, made);
        expect(apply(base, operations, made)).toEqual(made);
        let end = 0;
        for (const { isCopy, at, length } of operations.filter((operation) => operation.length > 0)) {
          if (!isCopy) continue;
          expect(at).toBeGreaterThanOrEqual(end);
          end = at + length;
        }
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    [
      'an append behind a header that counts',
      (base: Buffer) => Buffer.concat([Buffer.from([0xdc, 1]), base.subarray(2), Buffer.alloc(300, 'n')]),
      330,
    ],
    [
      'an append behind a header that grows',
      (base: Buffer) => Buffer.concat([Buffer.from([0xdc, 0, 16]), base.subarray(1), Buffer.alloc(300, 'n')]),
      330,
    ],
    ['an insert in front', (base: Buffer) => Buffer.concat([Buffer.alloc(200, 'n'), base]), 230],
    [
      'a removed front and an appended end',
      (base: Buffer) => Buffer.concat([base.subarray(4000), Buffer.alloc(200, 'n')]),
      320,
    ],
    [
      'edits in several places',
      (base: Buffer) => {
        const made = Buffer.from(base);
        for (const at of [3000, 6000, 9000]) made.write('edited', at);
        return made;
      },
      400,
    ],
  ])('finds %s', (_, change, bytes) => {
    const base = Buffer.from(
      Array.from({ length: 600 }, (_, n) => `line ${(n * 7919) % 10_007} of a text\n`).join(''),
    );
    const made = change(base);
    const operations = difference(base, made);
    expect(apply(base, operations, made)).toEqual(made);
    expect(sizeOf(operations)).toBeLessThan(bytes);
  });

  it('finds a value that another one contains, several times', () => {
    const base = Buffer.from(Array.from({ length: 60 }, (_, n) => `message ${n * 31} `).join(''));
    const made = Buffer.concat([Buffer.from('Send '), base, Buffer.from(' and '), base, Buffer.from(' end')]);
    const operations = containing(base, made) ?? [];
    expect(apply(base, operations, made)).toEqual(made);
    expect(sizeOf(operations)).toBeLessThan(120);
    expect(
      containing(base, Buffer.from(made.toString().replaceAll('message 310', 'message 311'))),
    ).toBeNull();
  });

  it('looks through a value that repeats itself in a time that grows with its bytes', () => {
    const base = Buffer.alloc(400_000, 'ab');
    const steps = (bytes: number) => {
      const made = Buffer.concat([Buffer.from('x'), Buffer.alloc(bytes, 'ab'), Buffer.from('y')]);
      return difference(base, made).length + (containing(base, made)?.length ?? 0);
    };
    expect(steps(800_000)).toBeLessThan(400);
  });
});

describe('a place in a log', () => {
  /** A log of the values, and the places of all of them. */
  function logOf(values: Buffer[]) {
    const records = values.map((made, at) =>
      at === 0
        ? firstRecord(made, crc32(made))
        : record(difference(values[at - 1] as Buffer, made), made, crc32(made)),
    );
    const places = values.map((made, at) => writePlace({ log: -5n, at }, made, crc32(made)));
    return { records, places };
  }
  const values = fc.array(value, { minLength: 1, maxLength: 12 });

  it('gives each version of any values, from the records or from the version itself', () => {
    fc.assert(
      fc.property(values, value, (all, last) => {
        fc.pre(last.length > 0); // no place has an empty one
        const { records, places } = logOf(all);
        const levels = records.map(readRecord);
        for (const [at, made] of all.entries()) {
          expect(valueAt(places[at] as Buffer, levels)).toEqual(made);
          const leaf = writePlace({ log: -5n, at }, last, crc32(last), difference(made, last));
          expect(valueAt(leaf, levels)).toEqual(last);
          expect(valueAt(leaf, made)).toEqual(last);
          expect(readPlace(leaf)).toMatchObject({ log: -5n, at, length: last.length });
        }
      }),
      { numRuns: 100 },
    );
  });

  it('gives the value or an error, never other bytes, whatever bit is flipped', () => {
    fc.assert(
      fc.property(values, fc.nat(), fc.nat(7), fc.boolean(), (all, where, bit, inPlace) => {
        const { records, places } = logOf(all);
        const place = Buffer.from(places.at(-1) as Buffer);
        const flipped = inPlace ? place : (records[where % records.length] as Buffer);
        // The number of the log is a key, which finds no record when it is another one.
        const from = inPlace ? 9 : 0;
        const at = from + (where % (flipped.length - from));
        flipped[at] = (flipped[at] as number) ^ (1 << bit);
        try {
          expect(valueAt(place, records.map(readRecord))).toEqual(all.at(-1));
        } catch (error) {
          if (!(error instanceof CorruptDeltaError)) throw error;
        }
      }),
      { numRuns: 3000 },
    );
  });

  it('allocates nothing for a length that its operations do not have', () => {
    const made = Buffer.from('some value');
    const place = writePlace({ log: 1n, at: 0 }, made, crc32(made));
    place.writeUInt32BE(0xffff_ffff, 13);
    expect(() => valueAt(place, [readRecord(firstRecord(made, crc32(made)))])).toThrow(
      'instead of 4294967295',
    );
    expect(() => readPlace(place.subarray(0, PLACE_BYTES - 1))).toThrow(CorruptDeltaError);
    expect(() => readOperations(Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), 0)).toThrow(
      CorruptDeltaError,
    );
  });
});
