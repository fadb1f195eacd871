/** Smaller ones are left to Node. */
const LARGE = 256 * 1024;
const SPARE_BYTES = 64 * 1024 * 1024;
const SPARE_MS = 2000;

interface Spare {
  buffer: Buffer;
  since: number;
}

/**
 * Buffers that nobody needs any more, the latest last. V8 would free them only at its next full collection, by when some
 * 64 MB more have been made.
 */
const spare: Spare[] = [];
let spareBytes = 0;
let sweeper: NodeJS.Timeout | undefined;

/** So many bytes; whatever is in them. */
export function bufferOf(length: number): Buffer {
  const at =
    length < LARGE
      ? -1
      : spare.findLastIndex(({ buffer }) => buffer.length >= length && buffer.length <= 2 * length);
  if (at === -1) return Buffer.allocUnsafe(length);
  const [{ buffer }] = spare.splice(at, 1) as [Spare];
  spareBytes -= buffer.length;
  return buffer.subarray(0, length);
}

/** What `bufferOf` gave, or the beginning of it, is needed no more; nothing may refer to its bytes. */
export function giveBack(bytes: Buffer): void {
  const buffer = Buffer.from(bytes.buffer);
  if (buffer.length < LARGE || spareBytes + buffer.length > SPARE_BYTES) return;
  spare.push({ buffer, since: Date.now() });
  spareBytes += buffer.length;
  sweeper ??= setInterval(sweep, SPARE_MS).unref();
}

/** Lets go of those that were not needed for a while. */
function sweep(): void {
  const until = Date.now() - SPARE_MS;
  while (spare[0] !== undefined && spare[0].since <= until) spareBytes -= spare.shift()?.buffer.length ?? 0;
  if (spare.length > 0) return;
  clearInterval(sweeper);
  sweeper = undefined;
}
