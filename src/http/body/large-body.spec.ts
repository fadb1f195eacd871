import { randomBytes } from 'node:crypto';
import { parseLarge } from './large-body.js';

const KB = 1024;
/** Around the length from which blobs are decoded apart, and that of the pieces. */
const LENGTHS = [47 * KB, 49_151, 49_152, 49_153, 96 * KB - 1, 200_001, 300_002];

interface Body {
  blobs: { blob: string | Buffer }[];
}

const aBody = (...blobs: string[]) =>
  Buffer.from(JSON.stringify({ a: 'é', blobs: blobs.map((blob) => ({ blob })) }));
const parsed = (bytes: Buffer) => parseLarge(bytes, (text) => JSON.parse(text) as unknown) as Body | null;

describe('a large body', () => {
  it.each(LENGTHS)('has its blob of %i bytes decoded, in its place or apart', (length) => {
    const blob = randomBytes(length);
    for (const others of [0, 1_000_000]) {
      const bytes = Buffer.concat([aBody(blob.toString('base64')), Buffer.alloc(others, ' ')]);
      const found = parsed(bytes)?.blobs[0]?.blob ?? null;
      if (4 * Math.ceil(length / 3) < 64 * KB) expect(found).toBeNull();
      else {
        expect(Buffer.compare(found as Buffer, blob)).toBe(0);
        expect((found as Buffer).buffer === bytes.buffer).toBe(others === 0);
      }
    }
  });

  it('has several blobs, each with its own bytes', () => {
    const blobs = LENGTHS.slice(2).map((length) => randomBytes(length));
    const found = parsed(aBody(...blobs.map((blob) => blob.toString('base64'))));
    expect(found?.blobs.map(({ blob }, n) => Buffer.compare(blob as Buffer, blobs[n]!))).toEqual(
      blobs.map(() => 0),
    );
  });

  it.each([
    ['a character', (text: string, at: number) => `${text.slice(0, at)}!${text.slice(at + 1)}`],
    ['a padding', (text: string, at: number) => `${text.slice(0, at)}=${text.slice(at + 1)}`],
    ['a space', (text: string, at: number) => `${text.slice(0, at)} ${text.slice(at + 1)}`],
  ])('is left as it was when %s in a blob is no Base64, wherever that is', (_, spoil) => {
    const good = randomBytes(100_000).toString('base64');
    const text = randomBytes(200_001).toString('base64');
    for (const at of [0, 1, 65_535, 65_536, 131_071, 131_072, 200_000, text.length - 5]) {
      const bytes = aBody(good, spoil(text, at), good);
      const before = Buffer.from(bytes);
      expect(parsed(bytes)).toBeNull();
      expect(Buffer.compare(bytes, before)).toBe(0);
    }
  });

  it('is left as it was when it is no JSON, or its blobs are elsewhere', () => {
    const blob = randomBytes(200_001).toString('base64');
    for (const text of [
      `{"blobs":[{"blob":"${blob}"}]`,
      `{"x":{"blobs":[{"blob":"${blob}"}]}}`,
      `{"blob":"${blob}"}`,
    ]) {
      const bytes = Buffer.from(text);
      expect(parsed(bytes)).toBeNull();
      expect(bytes.toString()).toBe(text);
    }
  });
});
