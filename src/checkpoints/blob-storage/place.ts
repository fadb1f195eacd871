import { crc32 } from 'node:zlib';
import {
  CorruptDeltaError,
  insert,
  type Level,
  type Operation,
  readOperations,
  resolve,
  writeOperations,
} from './operations.js';

/**
 * The versions of a value are the records of a log, in the table `checkpoint_deltas`: record 0 is the first version as a whole, each other
 * one is operations on the one before. Where a version would stand, in `checkpoint_blobs` or `checkpoint_writes`, its place in the
 * log stands, under the type of the value behind a mark.
 *
 * A record is: 1 byte format; 4 bytes CRC-32 of the version; operations.
 * A place is: 1 byte format; 8 bytes log; 4 bytes number of the record; 4 bytes length of the value; 4 bytes its CRC-32; and, where
 * the value is not that version itself, operations on it. Numbers are big-endian; SQL reads them too.
 */

const FORMAT = 1;
export const RECORD_HEAD = 5;
export const PLACE_BYTES = 21;
/** Postgres has no longer ones. */
const MAX_VALUE_BYTES = 2 ** 30;

/** A version in a log. */
export interface LogVersion {
  log: bigint;
  at: number;
}

export interface Place extends LogVersion {
  /** Of the value, in bytes. */
  length: number;
  crc: number;
  /** It is the version of the log, not operations on that. */
  isVersion: boolean;
}

/** Record 0 of a log. */
export function firstRecord(value: Buffer, crc: number): Buffer {
  return record([insert(0, value.length)], value, crc);
}

export function record(operations: Operation[], value: Buffer, crc: number): Buffer {
  const bytes = writeOperations(operations, value, RECORD_HEAD);
  bytes[0] = FORMAT;
  bytes.writeUInt32BE(crc, 1);
  return bytes;
}

export function writePlace(
  { log, at }: LogVersion,
  value: Buffer,
  crc: number,
  operations: Operation[] = [],
): Buffer {
  const bytes = writeOperations(operations, value, PLACE_BYTES);
  bytes[0] = FORMAT;
  bytes.writeBigInt64BE(log, 1);
  bytes.writeInt32BE(at, 9);
  bytes.writeUInt32BE(value.length, 13);
  bytes.writeUInt32BE(crc, 17);
  return bytes;
}

/** @throws CorruptDeltaError */
export function readPlace(bytes: Buffer): Place {
  if (bytes.length < PLACE_BYTES || bytes[0] !== FORMAT) throw new CorruptDeltaError('it is no place');
  return {
    log: bytes.readBigInt64BE(1),
    at: bytes.readInt32BE(9),
    length: bytes.readUInt32BE(13),
    crc: bytes.readUInt32BE(17),
    isVersion: bytes.length === PLACE_BYTES,
  };
}

/** The CRC-32 of the version that a record makes. */
export function crcOfRecord({ bytes }: Level): number {
  return bytes.readUInt32BE(1);
}

/** @throws CorruptDeltaError */
export function readRecord(bytes: Buffer): Level {
  if (bytes.length < RECORD_HEAD || bytes[0] !== FORMAT)
    throw new CorruptDeltaError('a record has another format');
  return readOperations(bytes, RECORD_HEAD);
}

/**
 * The value at a place. `base` is the version of the log that it names, or the log's records from 0 on; those after that version are
 * not looked at.
 *
 * @throws CorruptDeltaError when it is not the value that was stored: its length or its CRC-32 is another
 */
export function valueAt(place: Buffer, base: Buffer | Level[]): Buffer {
  const { at, length, crc, isVersion } = readPlace(place);
  const levels = Array.isArray(base) ? base.slice(0, at + 1) : [wholeLevel(base)];
  if (!isVersion) levels.push(readOperations(place, PLACE_BYTES));
  // Before anything is allocated.
  const made = levels.at(-1)?.length;
  if (made !== length) throw new CorruptDeltaError(`it has ${made} bytes instead of ${length}`);
  const value = resolve(levels);
  if (crc32(value) !== crc) throw new CorruptDeltaError('its CRC-32 is another one');
  return value;
}

/**
 * The version that these records of a log come to, which follow on `base`, or begin the log when that is null.
 *
 * @throws CorruptDeltaError
 */
export function versionAfter(base: Buffer | null, records: Level[]): Buffer {
  const levels = base === null ? records : [wholeLevel(base), ...records];
  // Before anything is allocated.
  if ((levels.at(-1)?.length ?? 0) > MAX_VALUE_BYTES)
    throw new CorruptDeltaError('a record makes too many bytes');
  return resolve(levels);
}

function wholeLevel(bytes: Buffer): Level {
  return { bytes, operations: [insert(0, bytes.length)], ends: [bytes.length], length: bytes.length };
}
