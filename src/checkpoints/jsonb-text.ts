/**
 * jsonb refuses `\u0000` and lone surrogates. In documents that hold them each is kept as a mark and its four hex digits.
 * The mark is chosen so that it does not occur in the documents, and stands beside them in the column `type`, which
 * LangGraph's savers never use. A document without such characters is stored exactly as it came.
 */

const PAIR = '\\\\u(?:d[89ab][0-9a-f]{2})\\\\u(?:d[c-f][0-9a-f]{2})';
const UNSTORABLE = '\\\\u(0000|d[89a-f][0-9a-f]{2})';
/** Every escape of a JSON text in turn; only an unstorable one has the group. */
const ESCAPES = new RegExp(`${PAIR}|${UNSTORABLE}|\\\\.`, 'gi');
const MAY_BE_UNSTORABLE = new RegExp(UNSTORABLE, 'i');
const MARK_START = '\ue000';

/** Whether the JSON text holds what jsonb refuses. */
function isUnstorable(text: string): boolean {
  if (!text.includes('\\u') || !MAY_BE_UNSTORABLE.test(text)) return false;
  for (const [, hex] of text.matchAll(ESCAPES)) if (hex !== undefined) return true;
  return false;
}

/** A mark that occurs in none of the documents, however its characters are escaped there. */
function unusedMark(texts: string[]): string {
  const plain = texts.map((text) =>
    text.replaceAll(/\\(?:u([0-9a-f]{4})|.)/gi, (escape, hex?: string) =>
      hex === undefined ? escape : String.fromCharCode(Number.parseInt(hex, 16)),
    ),
  );
  for (let n = 0; ; n += 1) {
    const mark = `${MARK_START}${n}:`;
    if (!plain.some((text) => text.includes(mark))) return mark;
  }
}

/** Texts that jsonb takes, and the mark that gives back what they stand for; null when they are as they came. */
export function toJsonb<Text extends string[]>(...texts: Text): { mark: string | null; texts: Text } {
  if (!texts.some(isUnstorable)) return { mark: null, texts };
  const mark = unusedMark(texts);
  return {
    mark,
    texts: texts.map((text) =>
      text.replaceAll(ESCAPES, (escape, hex?: string) =>
        hex === undefined ? escape : mark + hex.toLowerCase(),
      ),
    ) as Text,
  };
}

/** The JSON text that was stored as `text` with `mark`. */
export function fromJsonb(text: string, mark: string | null): string {
  return mark === null ? text : text.replaceAll(new RegExp(`${mark}([0-9a-f]{4})`, 'g'), '\\u$1');
}
