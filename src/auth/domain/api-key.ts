import { hash, randomInt, timingSafeEqual } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { granted, type Principal, type Scope } from '../../request/principal.js';

const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const PREFIX = 'ckpt_';
const ID_LENGTH = 12;
const SECRET_LENGTH = 40;
const CRC_LENGTH = 6;
const CRC_AT = PREFIX.length + ID_LENGTH + 1 + SECRET_LENGTH;
const FORM = new RegExp(
  `^${PREFIX}[${BASE62}]{${ID_LENGTH}}_[${BASE62}]{${SECRET_LENGTH}}[${BASE62}]{${CRC_LENGTH}}$`,
);

/** What is kept of a key: everything but its secret. */
export interface ApiKeyRecord {
  id: string;
  tenant: string;
  name: string;
  scopes: Scope[];
  hash: Buffer;
  /** Null in a file, which does not say. */
  createdAt: Date | null;
  /** Null: never. */
  expiresAt: Date | null;
  revokedAt: Date | null;
  /** It replaces a key that ends when this one is used, which it was not yet. Absent: no. */
  isUnused?: boolean;
  /** By the clock of the database, when it was read. Absent: `expiresAt` by this machine's clock. */
  expiresInMs?: number;
}

/** Why a key is not taken. For the log; callers are not told. */
export type KeyFault = 'wrong secret' | 'revoked' | 'expired';

/** A key that is known. */
export class ApiKey {
  readonly principal: Principal;
  private readonly expiresAtMs: number;
  /** The same on the monotonic clock, which nobody sets back. The other one goes on while the machine sleeps. */
  private readonly endMs: number;

  constructor(readonly record: ApiKeyRecord) {
    const { id, tenant, name, scopes, expiresAt } = record;
    this.principal = { tenant, scopes: granted(scopes), by: { key: id, name } };
    this.expiresAtMs = expiresAt?.getTime() ?? Infinity;
    this.endMs = performance.now() + (record.expiresInMs ?? this.expiresAtMs - Date.now());
  }

  /** What is wrong with a text that has this key's id; null: nothing. */
  faultOf(text: string): KeyFault | null {
    if (!timingSafeEqual(hashOf(text), this.record.hash)) return 'wrong secret';
    if (this.record.revokedAt !== null) return 'revoked';
    return Date.now() < this.expiresAtMs && performance.now() < this.endMs ? null : 'expired';
  }
}

/** A new key's text, which nobody keeps: `ckpt_<id>_<secret><crc>`. */
export function newKeyText(): string {
  const text = `${PREFIX}${random(ID_LENGTH)}_${random(SECRET_LENGTH)}`;
  return text + checksum(text);
}

/** What is stored of a new key's text. */
export function partsOf(text: string): { id: string; hash: Buffer } {
  return { id: idAt(text), hash: hashOf(text) };
}

/** Anything else may be a token. */
export function looksLikeKey(text: string): boolean {
  return text.startsWith(PREFIX);
}

/** Where a key's text has its id. */
export function idAt(text: string): string {
  return text.slice(PREFIX.length, PREFIX.length + ID_LENGTH);
}

/** The id in a key's text; null when it is none, or has a typing error. Asks nobody. */
export function idOf(text: string): string | null {
  return FORM.test(text) && text.slice(CRC_AT) === checksum(text.slice(0, CRC_AT)) ? idAt(text) : null;
}

/**
 * What is stored of the secret. It is 238 bits of chance, which nobody finds by trying, so a fast hash is enough, and the id
 * in it salts it. A slow one, as for passwords, would cost each request more than its statement.
 */
export function hashOf(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}

export function checksum(text: string): string {
  let rest = crc32(text);
  let digits = '';
  for (let n = 0; n < CRC_LENGTH; n += 1) {
    digits = BASE62.charAt(rest % BASE62.length) + digits;
    rest = Math.floor(rest / BASE62.length);
  }
  return digits;
}

function random(length: number): string {
  return Array.from({ length }, () => BASE62.charAt(randomInt(BASE62.length))).join('');
}
