import { InvalidArgumentError } from 'commander';
import { isTenant } from '../request/principal.js';

const SECONDS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Parses the name of a tenant, `''` being the default one. */
export function tenantName(text: string): string {
  if (isTenant(text)) return text;
  throw new InvalidArgumentError(
    'A tenant has up to 63 of a-z, 0-9, ".", "_" and "-", and begins with a letter or a digit.',
  );
}

/** Parses a time, such as 90d. */
export function seconds(text: string): number {
  const [, count, unit = ''] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const length = SECONDS[unit];
  if (length === undefined)
    throw new InvalidArgumentError('A time is a number and s, m, h or d, such as 90d.');
  return Number(count) * length;
}
