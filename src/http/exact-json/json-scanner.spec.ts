import fc from 'fast-check';
import { NotJsonError, scanJson, TooManyNodesError } from './json-scanner.js';

const scan = (text: string, maxNodes = 1_000_000) =>
  scanJson(text, 0, { countedMember: 'channel_versions', maxNodes });

describe('scanJson', () => {
  it('ends where the value does', () => {
    expect(scan('{"a":[1,{}]},"b"').end).toBe(12);
    expect(scanJson('xx "a]" ]', 2, { countedMember: '', maxNodes: 1 }).end).toBe(7);
  });

  it('takes and refuses the same texts as JSON.parse', () => {
    const json = fc.json({ maxDepth: 6 });
    const piece = fc.constantFrom(
      ...[
        '',
        ',',
        '"',
        '{',
        '}',
        '[',
        ']',
        ':',
        '\\',
        '0',
        '-',
        '+',
        ' ',
        'e',
        'E1',
        '.',
        '\\u',
        '\\u00',
        '\u0000',
      ],
      ...['true', 'nul', '\\n', '\\x', '\t', '\u2028', '\ud800', '"a":', '01', '-0', '1.5e-3'],
    );
    const broken = fc.tuple(json, fc.nat(), piece).map(([text, at, insert]) => {
      const place = at % (text.length + 1);
      return text.slice(0, place) + insert + text.slice(place + (at % 2));
    });
    const noise = fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join(''));
    const isWhole = (text: string) => {
      try {
        return /^[ \t\n\r]*$/.test(text.slice(scan(text).end));
      } catch (error) {
        expect(error).toBeInstanceOf(NotJsonError);
        return false;
      }
    };
    fc.assert(
      fc.property(fc.oneof(json, broken, noise), (text) => {
        let expected = true;
        try {
          JSON.parse(text);
        } catch {
          expected = false;
        }
        expect([text, isWhole(text)]).toEqual([text, expected]);
      }),
      { numRuns: 5000 },
    );
  });

  it.each([
    ['{}', 1],
    ['[]', 1],
    ['0', 1],
    ['{"a":1,"b":[null,"x"]}', 5],
    ['"\\u0000\\ud800\\udc00\\ud83d\\ude00\\udc00\\u0041"', 3],
    ['"\\ud800\\u0041\\ud800"', 3],
  ])('counts the nodes of %s: %i', (text, nodes) => {
    expect(scan(text).nodes).toBe(nodes);
    expect(scan(text, nodes).nodes).toBe(nodes);
  });

  it('stops at too many values', () => {
    expect(() => scan('[1,2,3', 3)).toThrow(TooManyNodesError);
    expect(() => scan('{"a":{"b":{', 2)).toThrow(TooManyNodesError);
  });

  it.each([
    ['{"channel_versions":{"a":1,"b":{"c":2}}}', 2],
    ['{"channel_versions":{}}', 0],
    ['{"channel_versions":[1,2,{"a":1}]}', 0],
    ['{"a":{"channel_versions":{"a":1}}}', 0],
    ['{"channel\\u005fversions":{"a":1}}', 1],
    ['{ "x":{"a":1} , "channel_versions" : { "a":1 , "a":2 } , "y":{"a":1} }', 2],
    ['{"channel_versions":{"a":1},"channel_versions":{"b":1}}', 2],
    ['[{"channel_versions":{"a":1}}]', 0],
  ])('counts the members of channel_versions in %s', (text, counted) => {
    expect(scan(text).counted).toBe(counted);
  });

  const deep = (levels: number) => '['.repeat(levels) + ']'.repeat(levels);
  const list = (number: string, times: number) => `[${Array(times).fill(number).join()}]`;
  it.each([
    ['1,000 levels', deep(1000), null],
    ['1,001 levels', deep(1001), /deeper than 1000/],
    ['a million levels', deep(400_000), /deeper/],
    ['the largest float', '1.7976931348623157e308', null],
    ['the smallest float', '5e-324', null],
    ['ten thousand small floats', list('4.9406564584124654e-324', 10_000), null],
    ['an integer of 131,072 digits', '9'.repeat(131_072), null],
    ['one of 131,073', '9'.repeat(131_073), /digits before the point/],
    ['16,383 digits after the point', `0.${'1'.repeat(16_383)}`, null],
    ['16,384 of them', `0.${'1'.repeat(16_384)}`, /after it/],
    ['16,384 of them, by an exponent', `0.${'1'.repeat(16_380)}e-4`, /after it/],
    ['1e1000', '1e1000', null],
    ['1e131071', '1e131071', /adds more than 1000/],
    ['1e131072', '1e131072', /digits before/],
    ['1E+5000', '1E+5000', /adds more than/],
    ['-1e-16383', '-1e-16383', /adds more than/],
    ['a zero with an exponent', '0e100000', null],
    ['a zero with a negative one', '0e-2000', /adds more than/],
    ['an exponent of 30 digits', `1e${'9'.repeat(30)}`, /digits before/],
    ['a zero with that', `0e${'9'.repeat(30)}`, /digits before/],
    ['digits that an exponent takes away', `${'1'.repeat(20_000)}e-19000`, /after it/],
    ['some of 1e999', list('1e999', 50), null],
    ['ten thousand of 1e308', list('1e308', 10_000), /16 times/],
  ])('knows what jsonb makes of %s', (_, text, fault) => {
    const found = scan(text).fault;
    if (fault === null) expect(found).toBeNull();
    else expect(found).toMatch(fault);
  });
});
