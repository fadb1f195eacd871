import { z } from 'zod';
import { isTenant, SCOPES } from '../request/principal.js';
import { ApiKey } from './domain/api-key.js';
import type { Keys } from './keys.js';
import { WatchedFile } from './watched-file.js';

const LINES = z.array(
  z.strictObject({
    id: z.string().regex(/^[0-9A-Za-z]{12}$/, 'must be 12 letters and digits'),
    tenant: z.string().refine(isTenant, 'is no name of a tenant').default(''),
    name: z.string().min(1),
    scopes: z.array(z.enum(SCOPES)),
    hash: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits'),
    expires: z.iso.datetime({ offset: true }).nullish(),
  }),
);

/** The keys of a file, such as a mounted secret. */
export class KeyFile implements Keys {
  private keys = new Map<string, ApiKey>();
  private readonly file: WatchedFile;

  constructor(path: string) {
    this.file = new WatchedFile(path, (text) => {
      this.keys = keysIn(text);
    });
  }

  start(): Promise<void> {
    return this.file.start();
  }

  stop(): void {
    this.file.stop();
  }

  known(id: string): ApiKey | undefined {
    return this.keys.get(id);
  }

  find(): null {
    return null;
  }

  /** In a file no key replaces another one. */
  used(): void {
    return;
  }
}

/** @throws Error that lists every fault, without any hash */
function keysIn(text: string): Map<string, ApiKey> {
  const { data, error } = LINES.safeParse(parsed(text));
  if (error !== undefined) {
    throw new Error(error.issues.map(({ path, message }) => `#/${path.join('/')} ${message}`).join('; '));
  }
  const keys = new Map<string, ApiKey>();
  for (const { id, tenant, name, scopes, hash, expires } of data) {
    if (keys.has(id)) throw new Error(`the id ${id} occurs twice`);
    const expiresAt = expires == null ? null : new Date(expires);
    const record = { id, tenant, name, scopes, hash: Buffer.from(hash, 'hex'), expiresAt };
    keys.set(id, new ApiKey({ ...record, createdAt: null, revokedAt: null }));
  }
  return keys;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // What it says quotes the text.
    throw new Error('is not JSON');
  }
}
