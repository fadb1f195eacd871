/**
 * jsonb refuses `\u0000` and lone surrogates. In documents that hold them each is kept as a mark and its four hex digits.
 * The mark is chosen so that it does not occur in the documents, and stands beside them in the column `type`, which
 * LangGraph's savers never use. A document without such characters is stored exactly as it came.
 */

const MAY_BE_UNSTORABLE = /\\u(?:0000|d[89a-f])/i;
const MARK_START = '\ue000';
const MARK_UNIT = 0xe000;
const MARK = /^\ue000\d+:$/;

const [BACKSLASH, LOWER_U, ZERO, NINE, COLON] = [0x5c, 0x75, 0x30, 0x39, 0x3a];
/** Characters of an escape such as `\u0000`, and of others such as `\n`. */
const [UNIT_ESCAPE, SIMPLE_ESCAPE] = [6, 2];

/** Where the JSON text has escapes that jsonb refuses. */
function unstorableEscapes(text: string): number[] {
  const found: number[] = [];
  if (!text.includes('\\u') || !MAY_BE_UNSTORABLE.test(text)) return found;
  for (let at = text.indexOf('\\'); at !== -1; at = text.indexOf('\\', at)) {
    const unit = escapedUnit(text, at);
    if (unit === 0 || isLow(unit)) found.push(at);
    else if (isHigh(unit)) {
      if (isLow(escapedUnit(text, at + UNIT_ESCAPE))) at += UNIT_ESCAPE;
      else found.push(at);
    }
    at += unit === -1 ? SIMPLE_ESCAPE : UNIT_ESCAPE;
  }
  return found;
}

/** The code unit of the escape that begins there; -1 when it is none with hexadecimal digits. */
function escapedUnit(text: string, at: number): number {
  if (text.charCodeAt(at) !== BACKSLASH || text.charCodeAt(at + 1) !== LOWER_U) return -1;
  let unit = 0;
  for (let digit = at + 2; digit < at + UNIT_ESCAPE; digit += 1) {
    const code = text.charCodeAt(digit) | 0x20; // as a lower-case letter
    unit = unit * 16 + code - (code <= NINE ? ZERO : 0x57);
  }
  return unit;
}

function isHigh(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}

function isLow(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}

/** The first mark that occurs in none of the documents, however its characters are escaped there; in one pass. */
function unusedMark(texts: string[]): string {
  // A mark takes three characters or more, so that one of these numbers is not used.
  const isUsed = new Uint8Array(Math.ceil(texts.reduce((sum, { length }) => sum + length, 0) / 3) + 1);
  for (const text of texts) {
    for (let at = start(text); at < text.length;) {
      let number = -1;
      let unit = unitAt(text, at);
      at += lengthAt(text, at);
      if (unit !== MARK_UNIT) continue;
      for (unit = unitAt(text, at); unit >= ZERO && unit <= NINE; unit = unitAt(text, at)) {
        number = Math.min(Math.max(number, 0) * 10 + unit - ZERO, isUsed.length);
        at += lengthAt(text, at);
      }
      if (unit === COLON && number !== -1) isUsed[number] = 1;
    }
  }
  return `${MARK_START}${isUsed.indexOf(0)}:`;
}

/** Where a mark may begin first. */
function start(text: string): number {
  const plain = text.indexOf(MARK_START);
  const escaped = text.indexOf('\\');
  return escaped !== -1 && (plain === -1 || escaped < plain) ? escaped : plain === -1 ? text.length : plain;
}

/** The code unit that stands at a place of a JSON text, escaped or not. */
function unitAt(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return code === BACKSLASH ? escapedUnit(text, at) : code;
}

function lengthAt(text: string, at: number): number {
  if (text.charCodeAt(at) !== BACKSLASH) return 1;
  return text.charCodeAt(at + 1) === LOWER_U ? UNIT_ESCAPE : SIMPLE_ESCAPE;
}

/** Texts that jsonb takes, and the mark that gives back what they stand for; null when they are as they came. */
export function toJsonb<Text extends string[]>(...texts: Text): { mark: string | null; texts: Text } {
  const escapes = texts.map(unstorableEscapes);
  if (escapes.every(({ length }) => length === 0)) return { mark: null, texts };
  const mark = unusedMark(texts);
  return { mark, texts: texts.map((text, n) => marked(text, escapes[n] ?? [], mark)) as Text };
}

/** With the mark and four digits in place of each of the escapes. */
function marked(text: string, escapes: number[], mark: string): string {
  const pieces: string[] = [];
  let at = 0;
  for (const escape of escapes) {
    pieces.push(text.slice(at, escape), mark, text.slice(escape + 2, escape + UNIT_ESCAPE).toLowerCase());
    at = escape + UNIT_ESCAPE;
  }
  pieces.push(text.slice(at));
  return pieces.join('');
}

/** The JSON text that was stored as `text` with `mark`. */
export function fromJsonb(text: string, mark: string | null): string {
  // Of adopted tables nobody knows what the column holds.
  if (mark === null || !MARK.test(mark)) return text;
  return text.replaceAll(new RegExp(`${mark}([0-9a-f]{4})`, 'g'), '\\u$1');
}
