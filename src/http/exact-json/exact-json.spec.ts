import fc from 'fast-check';
import { JsonLengthError, JsonNumber, JsonSyntaxError, JsonText, parseExactJson } from './exact-json.js';

const parse = (text: string, exact: string[] = ['checkpoint'], maxElements = 100) =>
  parseExactJson(text, {
    exact: new Set(exact),
    maxElements,
    maxDocumentBytes: 2 ** 20,
    maxDocumentNodes: 200_000,
  });

/** What JSON.parse would have made of it, where nothing stays exact. */
function ordinary(value: unknown): unknown {
  if (value instanceof JsonText) return JSON.parse(value.text);
  if (value instanceof JsonNumber) return Number(value.literal);
  if (Array.isArray(value)) return value.map(ordinary);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, ordinary(inner)]));
}

describe('parseExactJson', () => {
  it('keeps the text of an exact field, to the last digit and space', () => {
    const text =
      '{ "a":1.0,"b": 12345678901234567890,"c":1e-7,"d":-0.0,"__proto__":{"x":1},"e":"\\u0000\\ud800" }';
    const body = parse(`{"thread_id":"t","checkpoint":${text}}`) as { checkpoint: JsonText };
    expect(body.checkpoint).toEqual(new JsonText(text));
  });

  it('keeps only the top level’s fields exact', () => {
    expect(parse('{"writes":[{"checkpoint":{"a":1}}]}')).toEqual({
      writes: [{ checkpoint: new JsonText('{"a":1}') }],
    });
    expect(parse('{"other":{"a":1}}')).toEqual({ other: { a: 1 } });
  });

  it('leaves the scalars of an exact field as they are, for validation to refuse', () => {
    expect(parse('{"checkpoint":"{}"}')).toEqual({ checkpoint: '{}' });
    expect(parse('{"checkpoint":null}')).toEqual({ checkpoint: null });
  });

  it.each([
    ['1', 1],
    ['-12.5', -12.5],
    ['0', 0],
    ['1.0', new JsonNumber('1.0')],
    ['-0', new JsonNumber('-0')],
    ['1e3', new JsonNumber('1e3')],
    ['12345678901234567890', new JsonNumber('12345678901234567890')],
  ])('keeps the literal of %s when JavaScript would print another', (literal, value) => {
    expect(parse(`{"n":${literal}}`)).toEqual({ n: value });
  });

  it('takes the last of equal keys, however they are written', () => {
    expect(parse('{"a":1,"\\u0061":2}')).toEqual({ a: 2 });
  });

  it('does not let a key change the prototype', () => {
    const body = parse('{"__proto__":{"upsert":true},"constructor":1}') as Record<string, unknown>;
    expect(Object.getPrototypeOf(body)).toBe(Object.prototype);
    expect(body.upsert).toBeUndefined();
  });

  it('keeps what lies deeper than any field as text, to any depth', () => {
    const deep = '['.repeat(200_000) + ']'.repeat(200_000);
    const detail = 'is nested deeper than 1000 levels';
    expect(parse(`{"unknown":${deep}}`)).toEqual({ unknown: [[new JsonText(deep.slice(2, -2))]] });
    expect(parse(`{"checkpoint":${deep}}`)).toEqual({ checkpoint: new JsonText(deep, { detail }) });
  });

  it('refuses an array over the limit before reading the rest', () => {
    expect(parse('{"writes":[1,2,3]}', [], 3)).toEqual({ writes: [1, 2, 3] });
    expect(() => parse('{"writes":[1,2,3,4', [], 3)).toThrow(new JsonLengthError('array', 3, 'writes'));
  });

  it.each([
    ...[
      '',
      ' ',
      '{',
      '}',
      '{"a"}',
      '{"a":}',
      '{"a":1,}',
      '{a:1}',
      '[1,]',
      '[,1]',
      '[1 2]',
      '{"a":1}x',
      '{"a":01}',
    ],
    ...['{"a":1.}', '{"a":.5}', '{"a":+1}', '{"a":1e}', '{"a":NaN}', '{"a":nul}', '{"a":truex}', "{'a':1}"],
    ...['{"a":"\n"}', '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"x}', '{"a":"\\"}', '{"a":1 "b":2}', '\ufeff{}'],
    ...['{"checkpoint":{"a":01}}', '{"checkpoint":{"a":1]}', '{"checkpoint":[}', '{"checkpoint":{"a":"}'],
  ])('refuses %j', (text) => {
    expect(() => parse(text)).toThrow(JsonSyntaxError);
    expect(() => {
      JSON.parse(text);
    }).toThrow(SyntaxError);
  });

  it.each([60, 61, 62, 63, 64, 65, 66, 200, 300_000])(
    'reads and checks a string of %i characters',
    (length) => {
      const rest = 'é'.repeat(length - 1);
      expect(parse(`{"a":"${rest}b"}`)).toEqual({ a: `${rest}b` });
      expect(parse(`{"a":"${rest}\\n"}`)).toEqual({ a: `${rest}\n` });
      for (const bad of ['\n', '\u0000', '\\x']) {
        expect(() => parse(`{"a":"${rest}${bad}"}`)).toThrow(new JsonSyntaxError('Not JSON at character 5'));
      }
    },
  );

  it('takes and refuses the same texts as JSON.parse, with the same meaning', () => {
    const json = fc.json({ maxDepth: 6 }).filter((text) => !text.includes('__proto__'));
    const broken = fc
      .tuple(
        json,
        fc.nat(),
        fc.constantFrom('', ',', '"', '{', '}', '[', ']', ':', '\\', '0', '-', ' ', 'e', '.'),
      )
      .map(
        ([text, at, insert]) =>
          text.slice(0, at % (text.length + 1)) + insert + text.slice((at % (text.length + 1)) + 1),
      );
    fc.assert(
      fc.property(fc.oneof(json, broken), (text) => {
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          expect(() => parse(text, [], 1000)).toThrow(JsonSyntaxError);
          return;
        }
        expect(ordinary(parse(text, [], 1000))).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });
});
