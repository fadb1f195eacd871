/** Stands in a JSON text for the Base64 of a blob. Nothing else can be meant: JSON texts hold no NUL. */
export const PLACE = '\0';

/** Bytes that are encoded at once; a multiple of three. */
const PIECE = 192 * 1024;
/** Characters that are written at once. */
export const PART = 256 * 1024;

/**
 * The JSON text of an answer whose large blobs are encoded while it leaves: of 8 MB there is never a text of 11 MB, which V8
 * would free only at its next full collection.
 */
export class JsonWithBlobs {
  constructor(
    private readonly text: string,
    /** In the order of their places. */
    private readonly blobs: Buffer[],
  ) {}

  /** In bytes. */
  get length(): number {
    return this.blobs.reduce(
      (sum, { length }) => sum - PLACE.length + 4 * Math.ceil(length / 3),
      Buffer.byteLength(this.text),
    );
  }

  *parts(): Generator<string> {
    let at = 0;
    for (const blob of this.blobs) {
      const place = this.text.indexOf(PLACE, at);
      yield* partsOf(this.text, at, place);
      for (let from = 0; from < blob.length; from += PIECE) yield blob.toString('base64', from, from + PIECE);
      at = place + PLACE.length;
    }
    yield* partsOf(this.text, at);
  }
}

/** A long text, in parts that do not cut a character in two. */
export function* partsOf(text: string, at = 0, end = text.length): Generator<string> {
  while (at < end) {
    let to = Math.min(at + PART, end);
    if (isHighSurrogate(text.charCodeAt(to - 1))) to = Math.min(to + 1, end);
    yield text.slice(at, to);
    at = to;
  }
}

function isHighSurrogate(code: number): boolean {
  return code >= 0xd800 && code <= 0xdbff;
}
