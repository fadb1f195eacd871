/** A body of at least so many bytes is parsed here. */
export const LARGE_BODY_BYTES = 256 * 1024;
/** Of a blob's Base64, in characters. */
const LARGE_BLOB = 64 * 1024;
/** Decoded at once; a multiple of four characters. */
const PIECE = 64 * 1024;

const QUOTE = 0x22;
const COLON = 0x3a;
const BLOB = Buffer.from('"blob"');

/**
 * Parses a body whose large blobs are decoded from its bytes, without a text of them, which would be as long again. They
 * become Buffers at once. `parse` gets the text that is left. Where blobs are most of the body, each is decoded in its
 * place, so that 8 MB take no memory beside the body's: with this, and rows read without a copy, blobs of 8 MB took the service
 * 310 and 270 MB at most instead of 394 and 363 MB (two runs of the benchmark each, two busy cores).
 *
 * @returns null when there is none, or one of them is not Base64 or not where blobs are: the whole is then to be parsed
 */
export function parseLarge(bytes: Buffer, parse: (text: string) => unknown): unknown {
  const spans = largeBlobs(bytes);
  if (spans.length === 0) return null;
  const characters = spans.reduce((sum, { start, end }) => sum + end - start, 0);
  const inPlace = characters >= bytes.length / 2;
  const mark = `${MARK}${(marks += 1)}:`;
  const blobs: Buffer[] = [];
  const giveUp = () => {
    if (inPlace) {
      blobs.forEach((blob, n) => {
        encodeInPlace(bytes, spans[n]?.start ?? 0, blob.length);
      });
    }
    return null;
  };
  let text = '';
  let at = 0;
  for (const { start, end } of spans) {
    const blob = decoded(bytes, start, end, inPlace);
    if (blob === null) return giveUp();
    text += `${bytes.toString('utf8', at, start)}${mark}${blobs.length}`;
    blobs.push(blob);
    at = end;
  }
  let body: unknown;
  try {
    body = parse(text + bytes.toString('utf8', at));
  } catch {
    return giveUp(); // with the places of the whole text
  }
  return putBack(body, mark, blobs) === blobs.length ? body : giveUp();
}

/** Where the texts are that look like the Base64 of a large blob. */
function largeBlobs(bytes: Buffer): { start: number; end: number }[] {
  const spans: { start: number; end: number }[] = [];
  for (let found = bytes.indexOf(BLOB); found !== -1; found = bytes.indexOf(BLOB, found)) {
    found += BLOB.length;
    const start = startOfText(bytes, found);
    if (start === null) continue;
    const end = bytes.indexOf(QUOTE, start);
    if (end === -1) return [];
    found = end;
    if (end - start >= LARGE_BLOB) spans.push({ start, end });
  }
  return spans;
}

/** Nobody can guess it, so a body holds it only where it was put. */
const MARK = `${crypto.randomUUID()}:`;
let marks = 0;

/** Where the text begins that is the value of the member whose name has just ended; null when it is no text. */
function startOfText(bytes: Buffer, at: number): number | null {
  at = afterSpace(bytes, at);
  if (bytes[at] !== COLON) return null;
  at = afterSpace(bytes, at + 1);
  return bytes[at] === QUOTE ? at + 1 : null;
}

function afterSpace(bytes: Buffer, at: number): number {
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at += 1;
  return at;
}

/**
 * What the standard Base64 with padding stands for; null when it is none, and then the bytes are as they were. In place, the
 * blob is written over the beginning of its characters.
 */
function decoded(bytes: Buffer, start: number, end: number, inPlace: boolean): Buffer | null {
  const characters = bytes.subarray(start, end);
  if (characters.length % 4 !== 0 || characters.includes(0x2d) || characters.includes(0x5f)) return null;
  const padding = bytes[end - 1] !== 0x3d ? 0 : bytes[end - 2] !== 0x3d ? 1 : 2;
  const length = (characters.length / 4) * 3 - padding;
  const blob = inPlace ? characters.subarray(0, length) : Buffer.allocUnsafe(length);
  let at = 0;
  for (let from = 0; from < characters.length; from += PIECE) {
    const piece = characters.toString('latin1', from, from + PIECE);
    const next = at + blob.write(piece, at, 'base64');
    if (next !== Math.min(length, ((from + PIECE) / 4) * 3)) {
      if (inPlace) {
        characters.write(piece, from, 'latin1');
        encodeInPlace(bytes, start, at);
      }
      return null;
    }
    at = next;
  }
  return blob;
}

/** Undoes what decoding in place did to so many bytes. */
function encodeInPlace(bytes: Buffer, start: number, length: number): void {
  const blob = bytes.subarray(start);
  const step = (PIECE / 4) * 3;
  // From the end, so that no piece is written over one that is still to be read.
  for (let from = Math.floor(Math.max(0, length - 1) / step) * step; from >= 0; from -= step) {
    const piece = blob.toString('base64', from, Math.min(from + step, length));
    blob.write(piece, (from / 3) * 4, 'latin1');
  }
}

/** Returns how many blobs it found their places of. */
function putBack(body: unknown, mark: string, blobs: Buffer[]): number {
  let count = 0;
  for (const rows of Object.values(isObject(body) ? body : {})) {
    if (!Array.isArray(rows)) continue;
    for (const row of rows as unknown[]) {
      if (!isObject(row) || typeof row.blob !== 'string' || !row.blob.startsWith(mark)) continue;
      row.blob = blobs[Number(row.blob.slice(mark.length))];
      count += 1;
    }
  }
  return count;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
