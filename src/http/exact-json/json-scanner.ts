/**
 * Reads the text of one JSON value without making values of it: in linear time, without recursion, with a bit of memory for
 * each level of nesting. On the way it counts what the value costs Postgres as jsonb, and finds what jsonb does not take.
 */

/** What the scan of a value found. `end` is behind its last character. */
export interface Scanned {
  end: number;
  /** Its values, and the escapes in its texts that jsonb does not take: each of these costs a replacement. */
  nodes: number;
  /** Members of the object that is the member `countedMember` of the value; 0 when there is none. */
  counted: number;
  /** Why jsonb cannot hold it, or only by a multiple of its length; null when it can. */
  fault: string | null;
}

export interface ScanOptions {
  /** Whose members are counted. */
  countedMember: string;
  /** Of nodes; a text with more of them is not read further. */
  maxNodes: number;
}

/** The value has more than `maxNodes` nodes. */
export class TooManyNodesError extends RangeError {}

/** Where the text stops to be JSON. */
export class NotJsonError extends Error {
  constructor(readonly at: number) {
    super(`Not JSON at character ${at}`);
  }
}

/** Python's parser gives up at some 1,000 levels, Postgres at some 13,000 with its default stack. */
export const MAX_DEPTH = 1000;
/** Digits that Postgres's `numeric` keeps before and after the point. */
const MAX_WHOLE_DIGITS = 131_072;
const MAX_SCALE = 16_383;
/** jsonb prints numbers without an exponent: 1e308, the largest of a float, adds 304 characters. */
const MAX_ADDED = 1000;
/** 5e-324 written with 17 digits grows to the sixteenfold; short documents may hold some numbers that grow more. */
const MAX_GROWTH = 16;
const MAX_ADDED_TO_SHORT = 64 * 1024;
/** From this exponent on Postgres 15 refuses also a zero, newer ones from the next one on. */
const MAX_EXPONENT = 1_073_741_823;

const [QUOTE, BACKSLASH, SLASH, OPEN_BRACE, OPEN_BRACKET] = [0x22, 0x5c, 0x2f, 0x7b, 0x5b];
const [CLOSE_BRACE, CLOSE_BRACKET, COMMA, COLON] = [0x7d, 0x5d, 0x2c, 0x3a];
const [MINUS, PLUS, POINT, ZERO, NINE, LOWER_E, UPPER_E, LOWER_U] = [
  ...[0x2d, 0x2b, 0x2e, 0x30, 0x39, 0x65, 0x45, 0x75],
] as const;
const WORDS = ['true', 'false', 'null'];

/** @throws NotJsonError, TooManyNodesError */
export function scanJson(text: string, start: number, options: ScanOptions): Scanned {
  return new Scanner(text, start, options).scan();
}

class Scanner {
  private nodes = 0;
  private counted = 0;
  private added = 0;
  private fault: string | null = null;

  constructor(
    private readonly text: string,
    private readonly start: number,
    private readonly options: ScanOptions,
  ) {}

  scan(): Scanned {
    const {
      text,
      options: { maxNodes },
    } = this;
    const nesting = new Nesting();
    /** Whether the value of the counted member is being read. */
    let isCounted = false;
    let at = this.start;
    for (;;) {
      at = this.space(at);
      this.nodes += 1;
      if (this.nodes > maxNodes) throw new TooManyNodesError();
      let code = text.charCodeAt(at);
      if (code === OPEN_BRACE || code === OPEN_BRACKET) {
        const isObject = code === OPEN_BRACE;
        at = this.space(at + 1);
        nesting.open(isObject);
        if (nesting.depth > MAX_DEPTH) this.fault ??= `is nested deeper than ${MAX_DEPTH} levels`;
        if (text.charCodeAt(at) === (isObject ? CLOSE_BRACE : CLOSE_BRACKET)) {
          at += 1;
          nesting.close();
        } else {
          if (!isObject) continue;
          if (nesting.depth === 1) isCounted = this.isCountedMember(at);
          else if (isCounted && nesting.depth === 2) this.counted += 1;
          at = this.key(at);
          continue;
        }
      } else if (code === QUOTE) at = this.string(at);
      else if (code === MINUS || (code >= ZERO && code <= NINE)) at = this.number(at);
      else at = this.word(at);
      for (;;) {
        if (nesting.depth === 0) return this.result(at);
        at = this.space(at);
        code = text.charCodeAt(at);
        if (code === COMMA) {
          if (!nesting.isObject) {
            at += 1;
            break;
          }
          at = this.space(at + 1);
          if (nesting.depth === 1) isCounted = this.isCountedMember(at);
          else if (isCounted && nesting.depth === 2) this.counted += 1;
          at = this.key(at);
          break;
        }
        if (code !== (nesting.isObject ? CLOSE_BRACE : CLOSE_BRACKET)) throw new NotJsonError(at);
        at += 1;
        nesting.close();
      }
    }
  }

  private result(end: number): Scanned {
    const { nodes, counted } = this;
    if (this.added > MAX_ADDED_TO_SHORT + MAX_GROWTH * (end - this.start)) {
      this.fault ??= `holds numbers that are over ${MAX_GROWTH} times as long as it without their exponents`;
    }
    return { end, nodes, counted, fault: this.fault };
  }

  private key(at: number): number {
    if (this.text.charCodeAt(at) !== QUOTE) throw new NotJsonError(at);
    at = this.space(this.string(at));
    if (this.text.charCodeAt(at) !== COLON) throw new NotJsonError(at);
    return at + 1;
  }

  /** Also when characters of its name are escaped. */
  private isCountedMember(at: number): boolean {
    const {
      text,
      options: { countedMember: name },
    } = this;
    if (text.charCodeAt(at) !== QUOTE) return false;
    const end = this.string(at);
    if (end - at === name.length + 2) return text.startsWith(name, at + 1);
    return end - at <= 6 * name.length + 2 && JSON.parse(text.slice(at, end)) === name;
  }

  /** Returns where the string ends. */
  private string(at: number): number {
    const { text } = this;
    for (at += 1; ; at += 1) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) return at + 1;
      if (code === BACKSLASH) at = this.escape(at);
      else if (!(code >= 0x20)) throw new NotJsonError(at);
    }
  }

  /** Returns its last character. */
  private escape(at: number): number {
    const { text } = this;
    const code = text.charCodeAt(at + 1);
    if (code !== LOWER_U) {
      if (!isSimpleEscape(code)) throw new NotJsonError(at);
      return at + 1;
    }
    const unit = hex(text, at + 2);
    if (unit === -1) throw new NotJsonError(at);
    if (unit === 0 || (unit >= 0xdc00 && unit <= 0xdfff)) this.nodes += 1;
    else if (unit >= 0xd800 && unit <= 0xdbff) {
      const low =
        text.charCodeAt(at + 6) === BACKSLASH && text.charCodeAt(at + 7) === LOWER_U ? hex(text, at + 8) : -1;
      if (low >= 0xdc00 && low <= 0xdfff) return at + 11;
      this.nodes += 1;
    }
    return at + 5;
  }

  /** Returns where the number ends. */
  private number(start: number): number {
    const { text } = this;
    const whole = text.charCodeAt(start) === MINUS ? start + 1 : start;
    let at = digits(text, whole);
    if (at === whole || (text.charCodeAt(whole) === ZERO && at > whole + 1)) throw new NotJsonError(start);
    let point = at;
    let end = at;
    if (text.charCodeAt(at) === POINT) {
      end = digits(text, at + 1);
      if (end === at + 1) throw new NotJsonError(start);
      at = end;
    } else point = -1;
    const code = text.charCodeAt(at);
    const hasExponent = code === LOWER_E || code === UPPER_E;
    if (hasExponent) {
      const sign = text.charCodeAt(at + 1);
      const first = sign === MINUS || sign === PLUS ? at + 2 : at + 1;
      at = digits(text, first);
      if (at === first) throw new NotJsonError(start);
    }
    // Most numbers are shorter than any bound.
    if (hasExponent || at - start > MAX_SCALE) this.bound(whole, point, end, at);
    return at;
  }

  /** The number has its digits from `whole` to `end`, with a point at `point` (-1: none), then its exponent up to `last`. */
  private bound(whole: number, point: number, end: number, last: number): void {
    const { text } = this;
    const exponent = end === last ? 0 : Number(text.slice(end + 1, last));
    const wholeLength = (point === -1 ? end : point) - whole;
    let zeros = 0;
    for (let at = whole; at < end; at += 1) {
      const code = text.charCodeAt(at);
      if (code === ZERO) zeros += 1;
      else if (code !== POINT) break;
    }
    const isZero = zeros === end - whole - (point === -1 ? 0 : 1);
    const wholeDigits = isZero ? 1 : Math.max(1, wholeLength + exponent - zeros);
    const scale = Math.max(0, (point === -1 ? 0 : end - point - 1) - exponent);
    if (wholeDigits > MAX_WHOLE_DIGITS || scale > MAX_SCALE || Math.abs(exponent) >= MAX_EXPONENT) {
      this.fault ??= `holds a number of more than ${MAX_WHOLE_DIGITS} digits before the point, or ${MAX_SCALE} after it`;
      return;
    }
    const added = wholeDigits + (scale === 0 ? 0 : 1 + scale) - (last - whole);
    if (added > MAX_ADDED) this.fault ??= `holds a number whose exponent adds more than ${MAX_ADDED} digits`;
    if (added > 0) this.added += added;
  }

  private word(at: number): number {
    for (const word of WORDS) if (this.text.startsWith(word, at)) return at + word.length;
    throw new NotJsonError(at);
  }

  private space(at: number): number {
    for (; ; at += 1) {
      const code = this.text.charCodeAt(at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return at;
    }
  }
}

/** Which of the open values are objects: a bit each. */
class Nesting {
  depth = 0;
  /** Whether the innermost one is. */
  isObject = false;
  private bits = new Uint32Array(4);

  open(isObject: boolean): void {
    this.isObject = isObject;
    const word = this.depth >>> 5;
    if (word === this.bits.length) {
      const longer = new Uint32Array(2 * word);
      longer.set(this.bits);
      this.bits = longer;
    }
    const bit = 1 << (this.depth & 31);
    const bits = this.bits[word] ?? 0;
    this.bits[word] = isObject ? bits | bit : bits & ~bit;
    this.depth += 1;
  }

  close(): void {
    this.depth -= 1;
    const outer = this.depth - 1;
    this.isObject = outer >= 0 && ((this.bits[outer >>> 5] ?? 0) & (1 << (outer & 31))) !== 0;
  }
}

function digits(text: string, at: number): number {
  for (; ; at += 1) {
    const code = text.charCodeAt(at);
    if (!(code >= ZERO && code <= NINE)) return at;
  }
}

function isSimpleEscape(code: number): boolean {
  // " \ / b f n r t
  if (code === QUOTE || code === BACKSLASH || code === SLASH) return true;
  return code === 0x62 || code === 0x66 || code === 0x6e || code === 0x72 || code === 0x74;
}

/** The code unit that four hexadecimal digits stand for; -1 when they are none. */
function hex(text: string, at: number): number {
  let value = 0;
  for (const end = at + 4; at < end; at += 1) {
    const code = text.charCodeAt(at);
    const lower = code | 0x20;
    if (code >= ZERO && code <= NINE) value = value * 16 + code - ZERO;
    else if (lower >= 0x61 && lower <= 0x66) value = value * 16 + lower - 0x57;
    else return -1;
  }
  return value;
}
