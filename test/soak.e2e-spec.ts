import { contentOf, differenceOf, tenantsIn } from './soak/content.js';

/** What the soak recognises, without which its zeros say nothing. */
describe('content that names its owner', () => {
  const own = 'north/thread/messages 1';
  const bytes = 300_000;

  it('is the same whenever it is made, and nothing else is', () => {
    expect(differenceOf(contentOf(own, bytes), own, bytes)).toBeNull();
    expect(contentOf('north/thread/messages 2', bytes).equals(contentOf(own, bytes))).toBe(false);
  });

  it.each([
    { what: 'a byte that was changed', spoil: (content: Buffer) => content.fill(0, 1234, 1235) },
    { what: 'an end that is missing', spoil: (content: Buffer) => content.subarray(0, -1) },
    {
      what: 'a piece that is out of place',
      spoil: (content: Buffer) => content.copyWithin(0, 65_536, 66_048),
    },
  ])('tells $what', ({ spoil }) => {
    const content = contentOf(own, bytes);
    expect(differenceOf(Buffer.from(spoil(content)), own, bytes)).not.toBeNull();
  });

  it.each([0, 511, 512, 100_001])('tells whose a piece is that took its place from byte %i on', (at) => {
    const content = contentOf(own, bytes);
    contentOf('south/secrets/blob', 1100).copy(content, at);
    expect(tenantsIn(content)).toEqual(new Set(['north', 'south']));
    expect(differenceOf(content, own, bytes)).toContain(`other ones from`);
  });
});
