import { bounded } from './bounded.js';

it.each([
  ['what an operation takes', { thread_id: 't', n: null }, { thread_id: 't', n: null }],
  ['a short list', { ids: ['a', 'b'] }, { ids: ['a', 'b'] }],
  ['an id of the greatest length', { id: 'x'.repeat(2600) }, { id: 'x'.repeat(2600) }],
  ['a longer text', { id: 'x'.repeat(2601) }, { id: `${'x'.repeat(2600)}… (2601 characters)` }],
  [
    'what it never takes',
    { id: { a: 'x'.repeat(9000) }, ids: [['x'], 1] },
    { id: '(an object)', ids: ['(an object)', 1] },
  ],
  [
    'a long list',
    { ids: Array<string>(10_000).fill('x'.repeat(1024)) },
    { ids: { first: Array<string>(8).fill('x'.repeat(1024)), count: 10_000 } },
  ],
])('keeps of %s what a line has room for', (_, detail, kept) => {
  expect(bounded(detail)).toEqual(kept);
});

it('is told how much room a list has', () => {
  const detail = { ids: Array<string>(64).fill('x'.repeat(2600)) };
  expect(bounded(detail, 64 * 2600)).toEqual(detail);
});
