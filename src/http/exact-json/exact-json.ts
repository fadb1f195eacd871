/**
 * JSON that keeps what JavaScript's `number` and objects cannot: the literals of numbers (`1.0`, `12345678901234567890`),
 * keys such as `__proto__`, and documents of any depth. Such parts stay text from the request to the database.
 */

import { NotJsonError, scanJson, TooManyNodesError } from './json-scanner.js';

/** Why a document cannot be stored: it is over a limit, or jsonb cannot hold it. */
export type DocumentFault = { what: string; setting: string; limit: number } | { detail: string };

/** An object or array whose JSON text is kept as it came, checked but not parsed. */
export class JsonText {
  constructor(
    readonly text: string = 'null',
    /** Found while it was checked; whoever stores the text refuses it. */
    readonly fault: DocumentFault | null = null,
  ) {}

  get isObject(): boolean {
    return this.text.startsWith('{');
  }
}

/** A number that JavaScript would print differently from the literal that came, such as `1.0` or `1e3`. */
export class JsonNumber {
  constructor(readonly literal: string = '0') {}
}

/** The text is not JSON. `message` says what is wrong and where; it never quotes more than one character. */
export class JsonSyntaxError extends SyntaxError {}

/** An array of the request has more than `limit` elements, the request more than `limit` fields, or its documents values. */
export class JsonLengthError extends RangeError {
  constructor(
    readonly of: 'array' | 'fields' | 'values',
    readonly limit: number,
    /** The name of the array. */
    readonly member = '',
  ) {
    super(`More than ${limit} ${of === 'array' ? `elements in "${member}"` : of}`);
  }
}

export interface ExactJsonOptions {
  /** Names of top-level members whose objects and arrays stay text: documents. */
  exact: ReadonlySet<string>;
  /** How many elements an array may have outside of what stays text. */
  maxElements: number;
  /** What the documents of one request may be together; a longer one gets a fault. */
  maxDocumentBytes: number;
  /** How many values all that stays text may have. */
  maxDocumentNodes: number;
}

/** The object in a document that has a member for each channel: reading a checkpoint takes a look-up for each. */
const CHANNEL_VERSIONS = 'channel_versions';
/** An object of the request has fewer fields than this, and a request with arrays has that many more for each element. */
const FIELDS_PER_ELEMENT = 16;
const FIELDS = 1000;

/** A request is an object with arrays of objects of scalars; whatever lies deeper belongs to no field, and is skipped. */
const MAX_DEPTH = 3;

/** Characters of a text from which on it matters how long it is kept. */
const LARGE = 256 * 1024;

/** Codes of characters: to take one out of the text as a string of its own costs more than to compare it. */
const [QUOTE, OPEN_BRACE, OPEN_BRACKET, CLOSE_BRACE, CLOSE_BRACKET] = [0x22, 0x7b, 0x5b, 0x7d, 0x5d];
const [COMMA, COLON, MINUS, ZERO, NINE, BACKSLASH] = [0x2c, 0x3a, 0x2d, 0x30, 0x39, 0x5c];
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
/** The characters that JSON forbids inside a string, and the one that begins an escape. */
const NEEDS_DECODING = /[\\\u0000-\u001f]/;
/** Characters from which on `JSON.parse` looks for these, and copies, faster than they are looked for here. */
const LONG = 64;
const WORDS: readonly (readonly [string, boolean | null])[] = [
  ['null', null],
  ['true', true],
  ['false', false],
];

/**
 * Parses the text of a request. Of equal keys the last one counts, as in `JSON.parse`; `__proto__` is left out where it
 * would be a field of a request, and kept inside what stays text.
 *
 * @throws JsonSyntaxError, JsonLengthError
 */
export function parseExactJson(text: string, options: ExactJsonOptions): unknown {
  return new ExactJsonParser(text, options).document();
}

class ExactJsonParser {
  private at = 0;
  /** Values outside of what stays text. */
  private fields = 0;
  private documentBytes = 0;
  private documentNodes = 0;
  private readonly maxFields: number;

  constructor(
    private readonly text: string,
    private readonly options: ExactJsonOptions,
  ) {
    this.maxFields = FIELDS + FIELDS_PER_ELEMENT * options.maxElements;
  }

  document(): unknown {
    this.space();
    const value = this.value(1, '');
    this.space();
    if (this.at < this.text.length) this.fail();
    return value;
  }

  private value(depth: number, member: string): unknown {
    this.fields += 1;
    if (this.fields > this.maxFields) throw new JsonLengthError('fields', this.maxFields);
    const char = this.text.charCodeAt(this.at);
    if (char === QUOTE) return this.string();
    if (char === OPEN_BRACE || char === OPEN_BRACKET) {
      if (depth === 2 && this.options.exact.has(member)) return this.exact(member);
      if (depth > MAX_DEPTH) return new JsonText(this.skipped().text);
      return char === OPEN_BRACE ? this.object(depth) : this.array(depth, member);
    }
    if (char === MINUS || (char >= ZERO && char <= NINE)) return this.number();
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private object(depth: number): Record<string, unknown> {
    const object: Record<string, unknown> = {};
    this.at += 1;
    this.space();
    if (this.skip(CLOSE_BRACE)) return object;
    do {
      this.space();
      if (this.text.charCodeAt(this.at) !== QUOTE) this.fail();
      const key = this.string();
      this.space();
      if (!this.skip(COLON)) this.fail();
      this.space();
      const value = this.value(depth + 1, key);
      if (key !== '__proto__') object[key] = value;
      this.space();
    } while (this.skip(COMMA));
    if (!this.skip(CLOSE_BRACE)) this.fail();
    return object;
  }

  private array(depth: number, member: string): unknown[] {
    const array: unknown[] = [];
    this.at += 1;
    this.space();
    if (this.skip(CLOSE_BRACKET)) return array;
    do {
      if (array.length === this.options.maxElements)
        throw new JsonLengthError('array', this.options.maxElements, member);
      this.space();
      array.push(this.value(depth + 1, member));
      this.space();
    } while (this.skip(COMMA));
    if (!this.skip(CLOSE_BRACKET)) this.fail();
    return array;
  }

  private exact(member: string): JsonText {
    const { text, counted, fault } = this.skipped();
    const { maxDocumentBytes, maxElements } = this.options;
    this.documentBytes += text.length > maxDocumentBytes ? text.length : Buffer.byteLength(text);
    const over = (what: string, setting: string, limit: number) =>
      new JsonText(text, { what, setting, limit });
    if (this.documentBytes > maxDocumentBytes) {
      return over('The length of the documents', 'DOCUMENT_LIMIT_BYTES', maxDocumentBytes);
    }
    if (counted > maxElements)
      return over(`The number of ${CHANNEL_VERSIONS} in ${member}`, 'ROWS_LIMIT', maxElements);
    return new JsonText(text, fault === null ? null : { detail: fault });
  }

  /** The object or array at the current position, checked but not parsed. */
  private skipped() {
    const start = this.at;
    const { maxDocumentNodes } = this.options;
    try {
      const maxNodes = maxDocumentNodes - this.documentNodes;
      const scanned = scanJson(this.text, start, { countedMember: CHANNEL_VERSIONS, maxNodes });
      this.at = scanned.end;
      this.documentNodes += scanned.nodes;
      return { ...scanned, text: this.detached(this.text.slice(start, scanned.end)) };
    } catch (error) {
      if (error instanceof TooManyNodesError) throw new JsonLengthError('values', maxDocumentNodes);
      return this.fail(error instanceof NotJsonError ? error.at : start);
    }
  }

  private string(): string {
    const start = this.at;
    const end = this.closingQuote();
    this.at = end + 1;
    const isLong = end - start > LONG && this.text.length < LARGE;
    const inside = this.text.slice(start + 1, end);
    return isLong || NEEDS_DECODING.test(inside)
      ? (this.check(this.text.slice(start, this.at), start) as string)
      : this.detached(inside);
  }

  /** A slice keeps the text alive that it is of; of a large one only slices that are most of it may. */
  private detached(slice: string): string {
    if (this.text.length < LARGE || slice.length > this.text.length / 4) return slice;
    return Buffer.from(slice).toString();
  }

  /** The index of the quote that ends the string starting at the current position. */
  private closingQuote(): number {
    for (let end = this.text.indexOf('"', this.at + 1); end !== -1; end = this.text.indexOf('"', end + 1)) {
      let backslashes = 0;
      while (this.text.charCodeAt(end - 1 - backslashes) === BACKSLASH) backslashes += 1;
      if (backslashes % 2 === 0) return end;
    }
    return this.fail(this.text.length);
  }

  private number(): number | JsonNumber {
    NUMBER.lastIndex = this.at;
    const literal = NUMBER.exec(this.text)?.[0];
    if (literal === undefined) return this.fail();
    this.at += literal.length;
    const value = Number(literal);
    return String(value) === literal ? value : new JsonNumber(literal);
  }

  private check(text: string, start: number): unknown {
    try {
      return JSON.parse(text) as unknown;
    } catch {
      return this.fail(start);
    }
  }

  private space(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.at += 1;
    }
  }

  private skip(char: number): boolean {
    if (this.text.charCodeAt(this.at) !== char) return false;
    this.at += 1;
    return true;
  }

  private fail(at = this.at): never {
    throw new JsonSyntaxError(
      at < this.text.length ? `Not JSON at character ${at}` : 'The JSON text ends too early',
    );
  }
}
