/**
 * JSON that keeps what JavaScript's `number` and objects cannot: the literals of numbers (`1.0`, `12345678901234567890`),
 * keys such as `__proto__`, and documents of any depth. Such parts stay text from the request to the database.
 */

/** An object or array whose JSON text is kept as it came, checked but not parsed. */
export class JsonText {
  constructor(readonly text: string = 'null') {}

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

/** An array of the request has more than `limit` elements. */
export class JsonLengthError extends RangeError {
  constructor(
    readonly member: string,
    readonly limit: number,
  ) {
    super(`"${member}" has more than ${limit} elements`);
  }
}

export interface ExactJsonOptions {
  /** Names of top-level members whose objects and arrays stay text. */
  exact: ReadonlySet<string>;
  /** How many elements an array may have outside of what stays text. */
  maxElements: number;
}

/** A request is an object with arrays of objects of scalars; whatever lies deeper belongs to no field, and stays text. */
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

  constructor(
    private readonly text: string,
    private readonly options: ExactJsonOptions,
  ) {}

  document(): unknown {
    this.space();
    const value = this.value(1, '');
    this.space();
    if (this.at < this.text.length) this.fail();
    return value;
  }

  private value(depth: number, member: string): unknown {
    const char = this.text.charCodeAt(this.at);
    if (char === QUOTE) return this.string();
    if (char === OPEN_BRACE || char === OPEN_BRACKET) {
      if (depth > MAX_DEPTH || (depth === 2 && this.options.exact.has(member))) return this.textOnly();
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
        throw new JsonLengthError(member, this.options.maxElements);
      this.space();
      array.push(this.value(depth + 1, member));
      this.space();
    } while (this.skip(COMMA));
    if (!this.skip(CLOSE_BRACKET)) this.fail();
    return array;
  }

  /** Finds the end of an object or array by its brackets, and lets JSON.parse, which does not recurse, check the inside. */
  private textOnly(): JsonText {
    const start = this.at;
    let open = 0;
    do {
      const char = this.text.charCodeAt(this.at);
      if (char === QUOTE) this.at = this.closingQuote();
      else if (char === OPEN_BRACE || char === OPEN_BRACKET) open += 1;
      else if (char === CLOSE_BRACE || char === CLOSE_BRACKET) open -= 1;
      else if (this.at >= this.text.length) this.fail();
      this.at += 1;
    } while (open > 0);
    const text = this.detached(this.text.slice(start, this.at));
    this.check(text, start);
    return new JsonText(text);
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
