import { DECLARATIONS, ENVIRONMENT } from './declarations.js';
import { Settings } from './env.js';

const SCHEMAS = Object.entries(ENVIRONMENT.shape);
const schemaOf = (name: string) => SCHEMAS.find(([other]) => other === name)![1];
const takes = (name: string, text: string) => schemaOf(name).safeParse(text).success;

const INTEGERS = DECLARATIONS.flatMap(({ name, range }) => {
  const [, min, max] = /^(\d+) to (\d+)$/.exec(range ?? '') ?? [];
  return min === undefined ? [] : [{ name, min: Number(min), max: Number(max) }];
});

it('declares settings of every kind', () => {
  expect(SCHEMAS.length).toBeGreaterThan(60);
  expect(INTEGERS.length).toBeGreaterThan(25);
});

it.each(INTEGERS)('$name takes $min to $max, as is printed, and no more', ({ name, min, max }) => {
  const taken = [min - 1, min, min + 1, max - 1, max, max + 1].map((value) => takes(name, String(value)));
  expect(taken).toEqual([false, true, true, true, true, false]);
});

it.each(DECLARATIONS.filter(({ range }) => range?.includes('`')))(
  '$name takes the words that are printed, and no other',
  ({ name, range }) => {
    const words = [...range!.matchAll(/`([^`]+)`/g)].map(([, word]) => word!);
    expect(words.filter((word) => !takes(name, word))).toEqual([]);
    expect(takes(name, `${words[0]!}x`)).toBe(false);
    expect(takes(name, words.join(','))).toBe(range!.includes('list') && !words.includes('none'));
  },
);

const WITH_DEFAULT = DECLARATIONS.filter(({ default: text }) => text !== null);

it.each(WITH_DEFAULT)('$name=$default is the same as nothing', ({ name, default: text }) => {
  if (text !== '') expect(schemaOf(name).parse(text)).toEqual(schemaOf(name).parse(undefined));
  expect(new Settings({ [name]: text! })).toEqual(new Settings({}));
});

it('says of each setting what it is in one short line', () => {
  for (const { name, group, unit, range, meaning } of DECLARATIONS) {
    expect([name, group]).not.toContain('');
    expect([name, unit ?? range]).toEqual([name, expect.stringMatching(/./)]);
    expect([name, meaning]).toEqual([name, expect.stringMatching(/^[^\n|]{10,75}\.$/)]);
  }
});
