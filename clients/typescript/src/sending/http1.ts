/** What came is no answer of HTTP/1.1, or one that this client does not read. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
  readonly code = 'ERR_NOT_HTTP';
}

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/;
const HEADER_NAME = /^[\w!#$%&'*+.^`|~-]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const CHUNK_SIZE = /^([\da-f]{1,12})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?$/i;
const LENGTH = /^\d{1,15}$/;

/** What the bytes at hand belong to. */
type Part = 'head' | 'body' | 'chunk size' | 'chunk' | 'end of chunk' | 'trailers';

/**
 * Takes the bytes of a connection until one answer is whole. Strict: whatever it does not know is a fault, so that the connection
 * is closed and another one tried. Two readers that disagree about where an answer ends mix answers up.
 */
export class AnswerReader {
  status = 0;
  statusText = '';
  readonly headers = new Map<string, string>();
  isWhole = false;
  /** Whether the connection may be used again. */
  isReusable = false;
  private readonly maxHeadBytes: number;
  private part: Part = 'head';
  /** Bytes that were not enough to go on. */
  private rest: Buffer | undefined;
  private readonly pieces: Buffer[] = [];
  /** Bytes that the body or the chunk still lacks; Infinity when it ends with the connection. */
  private left = 0;
  private trailerBytes = 0;
  private keeps = false;

  constructor(maxHeadBytes: number) {
    this.maxHeadBytes = maxHeadBytes;
  }

  /** The body, as it was sent. */
  get body(): Buffer {
    const [first] = this.pieces;
    return this.pieces.length === 1 && first !== undefined ? first : Buffer.concat(this.pieces);
  }

  /** Whether the answer is whole now. @throws ProtocolError for what is no answer */
  feed(data: Buffer): boolean {
    let bytes = this.rest === undefined ? data : Buffer.concat([this.rest, data]);
    while (!this.isWhole) {
      const after = this.take(bytes);
      if (after === undefined) break;
      bytes = after;
    }
    this.rest = bytes.length === 0 ? undefined : bytes;
    // What follows an answer is nobody's answer.
    if (this.isWhole) this.isReusable = this.keeps && bytes.length === 0;
    return this.isWhole;
  }

  /** The other side has ended the connection. False when the answer is not whole. */
  end(): boolean {
    if (this.part === 'body' && this.left === Infinity) this.isWhole = true;
    return this.isWhole;
  }

  /** Takes the next part, and gives back what follows it; undefined when there are too few bytes. */
  private take(bytes: Buffer): Buffer | undefined {
    if (this.part === 'body' || this.part === 'chunk') return this.takeContent(bytes);
    const isHead = this.part === 'head';
    const end = bytes.indexOf(isHead ? '\r\n\r\n' : '\r\n', 0, 'latin1');
    const length = end < 0 ? bytes.length : end;
    if (length + this.trailerBytes > this.maxHeadBytes) throw new ProtocolError('headers that are too long');
    if (end < 0) {
      refuseOthers(bytes, isHead);
      return undefined;
    }
    const text = bytes.toString('latin1', 0, end);
    if (isHead) this.readHead(text);
    else this.readLine(text);
    return bytes.subarray(end + (isHead ? 4 : 2));
  }

  private takeContent(bytes: Buffer): Buffer | undefined {
    if (bytes.length === 0) return undefined;
    const piece = bytes.length > this.left ? bytes.subarray(0, this.left) : bytes;
    this.pieces.push(piece);
    this.left -= piece.length;
    if (this.left === 0) {
      if (this.part === 'body') this.isWhole = true;
      else this.part = 'end of chunk';
    }
    return bytes.subarray(piece.length);
  }

  private readHead(text: string): void {
    const [first = '', ...lines] = text.split('\r\n');
    const [, minor, status, reason = ''] = STATUS_LINE.exec(first) ?? [];
    if (status === undefined)
      throw new ProtocolError(`what came is no HTTP: ${JSON.stringify(first.slice(0, 40))}`);
    this.status = Number(status);
    if (this.status === 101)
      throw new ProtocolError('it answers 101 Switching Protocols, which nobody asked for');
    // An interim answer; the head of the real one follows.
    if (this.status < 200) return;
    this.statusText = reason;
    for (const line of lines) this.readHeader(line);
    const connection = this.headers.get('connection');
    this.keeps =
      minor === '1' && (connection === undefined || !/(^|,)[\t ]*close[\t ]*(,|$)/i.test(connection));
    this.beginBody();
  }

  private readHeader(line: string): void {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(0, colon)).toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(value)) {
      throw new ProtocolError(`a header that HTTP does not allow: ${JSON.stringify(line.slice(0, 40))}`);
    }
    const before = this.headers.get(name);
    this.headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }

  private beginBody(): void {
    const encoding = this.headers.get('transfer-encoding');
    const length = this.headers.get('content-length');
    this.part = 'body';
    if (this.status === 204 || this.status === 304) this.isWhole = true;
    else if (encoding !== undefined) {
      // With both, readers disagree about where the answer ends.
      if (encoding.toLowerCase() !== 'chunked' || length !== undefined) {
        throw new ProtocolError(`a transfer-encoding that is not supported: ${JSON.stringify(encoding)}`);
      }
      this.part = 'chunk size';
    } else if (length === undefined) this.left = Infinity;
    else if (!LENGTH.test(length))
      throw new ProtocolError(`a content-length that is none: ${JSON.stringify(length)}`);
    else {
      this.left = Number(length);
      this.isWhole = this.left === 0;
    }
  }

  private readLine(line: string): void {
    if (this.part === 'chunk size') {
      const [, size] = CHUNK_SIZE.exec(line) ?? [];
      if (size === undefined)
        throw new ProtocolError(`a chunk without a size: ${JSON.stringify(line.slice(0, 40))}`);
      this.left = parseInt(size, 16);
      this.part = this.left === 0 ? 'trailers' : 'chunk';
    } else if (this.part === 'end of chunk') {
      if (line !== '') throw new ProtocolError('a chunk that is longer than it says');
      this.part = 'chunk size';
    } else if (line === '') this.isWhole = true;
    else this.trailerBytes += line.length;
  }
}

/** @throws ProtocolError when the bytes cannot become lines of an answer any more */
function refuseOthers(bytes: Buffer, isHead: boolean): void {
  const text = bytes.toString('latin1');
  if (isHead && !'HTTP/1.'.startsWith(text.slice(0, 7))) {
    throw new ProtocolError(`what came is no HTTP: ${JSON.stringify(text.slice(0, 40))}`);
  }
  if (/(^|[^\r])\n/.test(text)) throw new ProtocolError('a line that ends without a carriage return');
}
