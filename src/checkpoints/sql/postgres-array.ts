import { LARGE, Pieces } from '../../database/binary-client.js';

/** Length, in place of an element's own, that stands for null. */
const NULL = -1;
const OIDS = { bytea: 17, int8: 20, int4: 23, text: 25 };
const HEADER_BYTES = 20;
/** Characters up to which a text is given the room of the longest UTF-8, since measuring takes as long as writing. */
const SHORT = 128;

/** A `bytea[]` for a statement's parameter; in pieces, so that it need not be copied, when an element is large. */
export function byteaArray(elements: (Buffer | null)[]): Buffer | Pieces {
  if (elements.some((element) => element !== null && element.length >= LARGE)) return pieces(elements);
  return array(
    'bytea',
    elements,
    (element) => element.length,
    (element, into, at) => element.copy(into, at),
  );
}

/** An `int[]` for a statement's parameter. */
export function intArray(elements: number[]): Buffer {
  return array(
    'int4',
    elements,
    () => 4,
    (element, into, at) => into.writeInt32BE(element, at) - at,
  );
}

/** A `bigint[]` for a statement's parameter. */
export function bigintArray(elements: bigint[]): Buffer {
  return array(
    'int8',
    elements,
    () => 8,
    (element, into, at) => into.writeBigInt64BE(element, at) - at,
  );
}

/** A `text[]` for a statement's parameter. */
export function textArray(elements: (string | null)[]): Buffer {
  return array(
    'text',
    elements,
    (element) => (element.length <= SHORT ? 3 * element.length : Buffer.byteLength(element)),
    (element, into, at) => into.write(element, at),
  );
}

/**
 * An array in Postgres's binary format (`array_send` in its source): number of dimensions, whether nulls occur, the
 * element type, then length and lower bound of the one dimension, then each element behind its length, all 32-bit
 * big-endian. As text, the way `pg` sends arrays, 1 MB of `bytea` takes four times as long.
 */
function array<Element>(
  type: keyof typeof OIDS,
  elements: (Element | null)[],
  /** At most. */
  bytesOf: (element: Element) => number,
  write: (element: Element, into: Buffer, at: number) => number,
): Buffer {
  let bytes = HEADER_BYTES;
  for (const element of elements) bytes += 4 + (element === null ? 0 : bytesOf(element));
  const into = Buffer.allocUnsafe(bytes);
  writeHeader(into, type, elements);
  let at = HEADER_BYTES;
  for (const element of elements) {
    const written = element === null ? 0 : write(element, into, at + 4);
    into.writeInt32BE(element === null ? NULL : written, at);
    at += 4 + written;
  }
  return into.subarray(0, at);
}

function writeHeader(into: Buffer, type: keyof typeof OIDS, elements: unknown[]): void {
  into.writeInt32BE(1, 0);
  into.writeInt32BE(elements.includes(null) ? 1 : 0, 4);
  into.writeInt32BE(OIDS[type], 8);
  into.writeInt32BE(elements.length, 12);
  into.writeInt32BE(1, 16);
}

function pieces(elements: (Buffer | null)[]): Pieces {
  const lengths = Buffer.allocUnsafe(HEADER_BYTES + 4 * elements.length);
  writeHeader(lengths, 'bytea', elements);
  const all: Buffer[] = [lengths.subarray(0, HEADER_BYTES)];
  for (const [n, element] of elements.entries()) {
    const at = HEADER_BYTES + 4 * n;
    lengths.writeInt32BE(element?.length ?? NULL, at);
    all.push(lengths.subarray(at, at + 4));
    if (element !== null) all.push(element);
  }
  return new Pieces(all);
}
