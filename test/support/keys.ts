import { checksum, hashOf, idOf, newKeyText } from '../../src/auth/domain/api-key.js';
import type { Scope } from '../../src/request/principal.js';
import type { Answer, TestApp } from './app.js';
import type { TestDatabase } from './database.js';

const SECRET_AT = 'ckpt_'.length + 12 + 1;
const CRC_AT = SECRET_AT + 40;

export interface KeyFields {
  tenant?: string;
  name?: string;
  scopes?: Scope[];
  expiresAt?: Date | null;
  revokedAt?: Date | null;
}

/** Stores a key, and returns its text. */
export async function aKey({ sql }: TestDatabase, fields: KeyFields = {}): Promise<string> {
  const text = newKeyText();
  const {
    tenant = '',
    name = 'a key',
    scopes = ['read', 'write'],
    expiresAt = null,
    revokedAt = null,
  } = fields;
  await sql(
    `insert into api_keys (id, tenant, name, scopes, hash, expires_at, revoked_at) values ($1, $2, $3, $4, $5, $6, $7)`,
    [idOf(text), tenant, name, scopes, hashOf(text), expiresAt, revokedAt],
  );
  return text;
}

/** A text with the id of the key, another secret and a checksum that fits. */
export function withAnotherSecret(key: string): string {
  const text = key.slice(0, SECRET_AT) + newKeyText().slice(SECRET_AT, CRC_AT);
  return text + checksum(text);
}

/** Posts as somebody of a tenant, by a key that may do all there; the default tenant is `''`. */
export type PostAs = (tenant: string, operation: string, body: object | string) => Promise<Answer>;

export function postingAs({ post, database }: TestApp): PostAs {
  const keys = new Map<string, Promise<string>>();
  return async (tenant, operation, body) => {
    const key = keys.get(tenant) ?? aKey(database, { tenant, scopes: ['read', 'write', 'delete'] });
    keys.set(tenant, key);
    return post(operation, body, { 'x-agent-api-key': await key });
  };
}
