import { InvalidArgumentError } from 'commander';
import { isTenant } from '../request/principal.js';

/** Parses the name of a tenant, `''` being the default one. */
export function tenantName(text: string): string {
  if (isTenant(text)) return text;
  throw new InvalidArgumentError(
    'A tenant has up to 63 of a-z, 0-9, ".", "_" and "-", and begins with a letter or a digit.',
  );
}
