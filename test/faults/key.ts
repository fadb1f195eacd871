import { newKeyText, partsOf } from '../../src/auth/domain/api-key.js';
import type { Postgres } from './postgres.js';

/** With `AUTH_MODE=keys npm run test:faults` the service asks for keys, and all requests have this one. */
const KEY = process.env.AUTH_MODE === 'keys' ? newKeyText() : null;

export const AUTH_MODE = KEY === null ? 'none' : 'keys';
export const HEADERS: Record<string, string> = {
  'content-type': 'application/json',
  ...(KEY !== null && { 'x-agent-api-key': KEY }),
};

/** Where the service finds it; may be repeated. */
export async function storeKey(postgres: Postgres, database: string): Promise<void> {
  if (KEY === null) return;
  const { id, hash } = partsOf(KEY);
  await postgres.sql(
    `insert into api_keys (id, tenant, name, scopes, hash) values ($1, '', 'faults', '{admin}', $2) on conflict do nothing`,
    [id, hash],
    database,
  );
}
