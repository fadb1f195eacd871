import { ApiKey, hashOf, idOf, newKeyText } from './api-key.js';

const HOUR_MS = 3_600_000;

function aRecord(text: string) {
  const named = {
    id: idOf(text)!,
    tenant: 'team',
    name: 'pods',
    scopes: ['read' as const],
    hash: hashOf(text),
  };
  return { ...named, createdAt: null, expiresAt: null, revokedAt: null };
}

describe('the text of a key', () => {
  it('has the form that secret scanners look for, and an id', () => {
    const text = newKeyText();
    expect(text).toMatch(/^ckpt_[0-9A-Za-z]{12}_[0-9A-Za-z]{46}$/);
    expect(idOf(text)).toBe(text.slice(5, 17));
  });

  it('is never the same twice', () => {
    const texts = Array.from({ length: 1000 }, newKeyText);
    expect(new Set(texts.map(idOf)).size).toBe(1000);
    expect(new Set(texts.map((text) => text.slice(18))).size).toBe(1000);
  });

  it('with any one character changed is none', () => {
    const text = newKeyText();
    for (let at = 0; at < text.length; at += 1) {
      const other = text[at] === 'a' ? 'b' : 'a';
      expect(idOf(text.slice(0, at) + other + text.slice(at + 1))).toBeNull();
    }
  });

  it.each([
    ['nothing', () => ''],
    ['one with more behind it', () => `${newKeyText()}a`],
    ['one with a line behind it', () => `${newKeyText()}\n`],
    ['one with a space before it', () => ` ${newKeyText()}`],
    ['two of them', () => `${newKeyText()}, ${newKeyText()}`],
    ['another prefix', () => newKeyText().replace('ckpt', 'ckpx')],
  ])('is not %s', (_, text) => {
    expect(idOf(text())).toBeNull();
  });
});

describe('a key', () => {
  const text = newKeyText();

  it('keeps nothing of its secret', () => {
    expect(JSON.stringify(new ApiKey(aRecord(text)))).not.toContain(text.slice(18, 58));
  });

  it('is of its tenant, with its scopes', () => {
    expect(new ApiKey(aRecord(text)).principal).toEqual({
      tenant: 'team',
      scopes: new Set(['read']),
      by: { key: idOf(text), name: 'pods' },
    });
  });

  it.each([
    { what: 'itself', fields: {}, fault: null },
    { what: 'one that expires later', fields: { expiresAt: new Date(Date.now() + HOUR_MS) }, fault: null },
    { what: 'one that has expired', fields: { expiresAt: new Date(Date.now() - 1) }, fault: 'expired' },
    { what: 'one that was revoked', fields: { revokedAt: new Date() }, fault: 'revoked' },
    {
      what: 'one that was revoked by a clock that is ahead',
      fields: { revokedAt: new Date(Date.now() + HOUR_MS) },
      fault: 'revoked',
    },
    { what: 'another secret', fields: { hash: hashOf(newKeyText()) }, fault: 'wrong secret' },
  ])('takes or refuses $what', ({ fields, fault }) => {
    expect(new ApiKey({ ...aRecord(text), ...fields }).faultOf(text)).toBe(fault);
  });

  it('takes as long to refuse as to take', () => {
    const key = new ApiKey(aRecord(text));
    const texts = [text, text.slice(0, 57) + (text[57] === 'a' ? 'b' : 'a') + text.slice(58), newKeyText()];
    const taken = texts.map(() => [] as number[]);
    for (let n = 0; n < 5000; n += 1) {
      for (const [kind, given] of texts.entries()) {
        const began = performance.now();
        key.faultOf(given);
        if (n > 1000) taken[kind]!.push(performance.now() - began); // compiled by then
      }
    }
    const [right, ...wrong] = taken.map((times) => {
      times.sort((a, b) => a - b);
      return { low: times[Math.floor(times.length * 0.1)]!, high: times[Math.floor(times.length * 0.9)]! };
    });
    // One that is refused without being hashed takes less than half as long.
    for (const { low, high } of wrong) {
      expect(low).toBeLessThan(1.5 * right!.high);
      expect(right!.low).toBeLessThan(1.5 * high);
    }
  });
});
