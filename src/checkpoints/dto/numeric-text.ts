import { MAX_KEY_BYTES } from '../domain/checkpoint.js';

/** A double has no greater exponent. Each digit that an exponent adds is memory that nobody has sent. */
const MAX_SHIFT = 350;
const PARTS = /^(-?)(\d+)(?:\.(\d*))?(?:[eE]([+-]?\d+))?$/;

/**
 * A JSON number as Postgres prints it once it went through jsonb: no exponent, the scale kept, no negative zero. That is
 * how a version stands in `channel_versions`, and so how a blob's version must read to be found. Null when it would be
 * longer than any key, or has an exponent that no double has.
 */
export function numericText(literal: string): string | null {
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = PARTS.exec(literal) ?? [];
  const shift = Number(exponent);
  if (Math.abs(shift) > MAX_SHIFT || literal.length > MAX_KEY_BYTES) return null;
  const scale = Math.max(0, fraction.length - shift);
  const digits = (whole + fraction).padEnd(whole.length + shift, '0').padStart(scale + 1, '0');
  const integer = digits.slice(0, digits.length - scale).replace(/^0+(?=\d)/, '');
  const text = scale === 0 ? integer : `${integer}.${digits.slice(-scale)}`;
  return /[1-9]/.test(text) ? sign + text : text;
}
