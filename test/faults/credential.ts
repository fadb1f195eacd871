import { newKeyText, partsOf } from '../../src/auth/api-key.js';
import { DATABASE, type World } from './world.js';

/** What every request brings, so that it is known whose it is; with AUTH_MODE=none nothing. */
export const credential: Record<string, string> = {};

/** From now on requests bring a key of the database's. */
export async function bringKey(world: World): Promise<void> {
  const text = newKeyText();
  const { id, hash } = partsOf(text);
  await world.postgres.sql(
    `insert into api_keys (id, tenant, name, scopes, hash)
     values ($1, '', 'agents', '{read,write,delete}', $2)`,
    [id, hash],
    DATABASE,
  );
  credential['x-agent-api-key'] = text;
}
