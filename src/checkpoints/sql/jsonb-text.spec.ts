import fc from 'fast-check';
import { fromJsonb, toJsonb } from './jsonb-text.js';

const NUL = '\\u0000';
/** JSON.stringify escapes NUL and lone surrogates, and no other character of these. */
const REFUSED = /(?<!\\)(\\\\)*\\u(0000|d[89a-f]..)/;

describe('toJsonb', () => {
  it.each([
    ['{"a":1.0,"b":"é\\u00e9\\n\\"\\\\"}'],
    ['{"pair":"\\ud83d\\ude00"}'],
    ['{"escaped backslash":"\\\\u0000 \\\\ud800"}'],
    ['{"mark":"\ue0000:0000"}'],
  ])('leaves %j as it is', (text) => {
    expect(toJsonb(text)).toEqual({ mark: null, texts: [text] });
  });

  it.each([
    [`{"a":"${NUL}"}`],
    [`{"${NUL}":1}`],
    ['{"high":"\\ud83dx"}'],
    ['{"low":"\\ude00"}'],
    ['{"reversed":"\\ude00\\ud83d"}'],
    ['{"high high low":"\\ud83d\\ud83d\\ude00"}'],
    [`{"after a backslash":"\\\\${NUL}"}`],
    [`{"beside a mark":"\ue0000:0000${NUL}"}`],
    [`{"beside an escaped mark":"\\ue000\\u0030:0000${NUL}"}`],
    [`{"beside many marks":"\ue0000:\ue0001:\ue0002:${NUL}"}`],
  ])('stores %j without the characters that jsonb refuses, and gives them back', (text) => {
    const stored = toJsonb(text);
    expect(stored.mark).not.toBeNull();
    // As jsonb prints it: every character but a few unescaped.
    const printed = JSON.stringify(JSON.parse(stored.texts[0]));
    expect(printed).not.toMatch(REFUSED);
    expect(JSON.parse(fromJsonb(printed, stored.mark))).toEqual(JSON.parse(text));
  });

  it('uses one mark for both documents, absent from both', () => {
    const { mark, texts } = toJsonb(`{"a":"${NUL}"}`, '{"b":"\ue0000:"}');
    expect(mark).toBe('\ue0001:');
    expect(texts[1]).toBe('{"b":"\ue0000:"}');
  });

  it('finds a mark among a million in one pass', () => {
    let marks = '';
    for (let n = 0; n < 1_000_000; n += 1) marks += `\ue000${n}:`;
    // To look through the text for each of them would take days.
    expect(toJsonb(`{"a":"${NUL}","b":"${marks}"}`).mark).toBe('\ue0001000000:');
  });

  it.each(['json', '(', '\ue000', '\ue000x:', ''])('leaves a text alone whose mark is none: %j', (mark) => {
    expect(fromJsonb('{"a":"json0000(0000"}', mark)).toBe('{"a":"json0000(0000"}');
  });

  it('gives back any document', () => {
    const unit = fc.oneof(
      fc.constantFrom('\0', '\ud800', '\udfff', '\ue000', '0', ':', '\\', 'u', '"'),
      fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)),
    );
    const text = fc.array(unit).map((units) => units.join(''));
    fc.assert(
      fc.property(fc.dictionary(text, text), (document) => {
        const stored = toJsonb(JSON.stringify(document));
        const printed = JSON.stringify(JSON.parse(stored.texts[0]));
        expect(printed).not.toMatch(REFUSED);
        expect(JSON.parse(fromJsonb(printed, stored.mark))).toEqual(document);
      }),
      { numRuns: 1000 },
    );
  });
});
