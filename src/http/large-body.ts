import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import zlib from 'node:zlib';
import type { Inflight, Share } from './inflight.js';

/** A body of at least so many bytes, or of unknown length, is collected and parsed here. */
export const LARGE_BODY_BYTES = 256 * 1024;
/** Of a blob's Base64, in characters. */
const LARGE_BLOB = 64 * 1024;
/** Decoded at once; a multiple of four characters. */
const PIECE = 64 * 1024;
const FIRST_BYTES = 16 * 1024;

const QUOTE = 0x22;
const COLON = 0x3a;
const BLOB = Buffer.from('"blob"');

const INFLATERS: Record<string, () => zlib.Gunzip | zlib.Inflate | zlib.BrotliDecompress> = {
  gzip: () => zlib.createGunzip(),
  deflate: () => zlib.createInflate(),
  br: () => zlib.createBrotliDecompress(),
};

/**
 * Collects a body that is large, compressed, or of unknown length. Nothing is taken off the socket while there is no room
 * in memory for it; of an unknown length room is asked for as it grows. `done` gets what is wrong, as the body parsers of
 * Express say it: `{status, message}`.
 */
export function collectLarge(
  request: IncomingMessage,
  share: Share,
  inflight: Inflight,
  limit: number,
  done: (error: unknown, bytes?: Buffer) => void,
): void {
  const encoding = request.headers['content-encoding']?.toLowerCase() ?? 'identity';
  const inflater = INFLATERS[encoding]?.();
  if (inflater === undefined && encoding !== 'identity') {
    done({ status: 415, message: `unsupported content encoding "${encoding}"` });
    return;
  }
  const known = inflater === undefined ? request.headers['content-length'] : undefined;
  const length = known === undefined ? Math.min(FIRST_BYTES, limit) : Number(known);
  if (length > limit) {
    done({ status: 413 });
    return;
  }
  const begin = (error?: Error) => {
    if (error === undefined) collect(request, inflater, share, inflight, length, limit, done);
    else done(error);
  };
  if (inflight.need(share, length, begin)) begin();
}

function collect(
  request: IncomingMessage,
  inflater: (Readable & NodeJS.WritableStream) | undefined,
  share: Share,
  inflight: Inflight,
  length: number,
  limit: number,
  done: (error: unknown, bytes?: Buffer) => void,
): void {
  const source: Readable = inflater ?? request;
  let bytes = Buffer.allocUnsafe(length);
  let received = 0;
  const stop = (error: unknown) => {
    source.off('data', take).off('end', end);
    if (inflater !== undefined) {
      request.unpipe(inflater);
      inflater.off('error', broken).on('error', () => undefined);
      (inflater as zlib.Gunzip).close();
    }
    request.resume();
    bytes = bytes.subarray(0, 0);
    done(error);
  };
  const take = (chunk: Buffer) => {
    const sum = received + chunk.length;
    if (sum > limit) {
      stop({ status: 413 });
      return;
    }
    if (sum > bytes.length) {
      const larger = Math.min(limit, Math.max(sum, 2 * bytes.length));
      const grow = () => {
        const before = bytes;
        bytes = Buffer.allocUnsafe(larger);
        before.copy(bytes, 0, 0, received);
      };
      const goOn = (error?: Error) => {
        if (error !== undefined) {
          stop(error);
          return;
        }
        grow();
        take(chunk);
        source.resume();
      };
      if (!inflight.need(share, larger, goOn)) {
        source.pause();
        return;
      }
      grow();
    }
    chunk.copy(bytes, received);
    received = sum;
  };
  const end = () => {
    const whole = bytes.subarray(0, received);
    bytes = whole.subarray(0, 0); // the request would keep it, with its listeners, until it is answered
    done(undefined, whole);
  };
  const broken = ({ message }: Error) => {
    stop({ status: 400, message });
  };
  source.on('data', take).once('end', end);
  if (inflater === undefined) return;
  inflater.once('error', broken);
  request.pipe(inflater as zlib.Gunzip);
  share.exchange?.response.once('close', () => {
    (inflater as zlib.Gunzip).close();
  });
}

/**
 * Parses a body whose large blobs are decoded from its bytes, without a text of them, which would be as long again. They
 * become Buffers at once. `parse` gets the text that is left. Where blobs are most of the body, each is decoded in its
 * place, so that 8 MB take no memory beside the body's.
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
