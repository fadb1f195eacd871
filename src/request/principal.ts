/** What a caller may do. */
export const SCOPES = ['read', 'write', 'delete', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** What each operation takes; `admin` may do all. */
export const SCOPES_OF: Readonly<Record<string, readonly Scope[]>> = {
  'get-tuple': ['read'],
  list: ['read'],
  'delta-channel-history': ['read'],
  put: ['write'],
  'put-writes': ['write'],
  batch: ['write'],
  'copy-thread': ['read', 'write'],
  'delete-thread': ['delete'],
  'delete-for-runs': ['delete'],
  prune: ['delete'],
  'keys-create': ['admin'],
  'keys-list': ['admin'],
  'keys-revoke': ['admin'],
  'keys-rotate': ['admin'],
};

const TENANT = /^(?:[a-z0-9][a-z0-9._-]{0,62})?$/;

/** Whether it may name a tenant; `''` is the default one. */
export function isTenant(text: string): boolean {
  return TENANT.test(text);
}

/** Who sent a request, once it is known. */
export interface Principal {
  /** Whose threads it sees; `''` is the tenant of what was stored without any. */
  tenant: string;
  /** All of them, when one is `admin`. */
  scopes: ReadonlySet<Scope>;
  /** By what it is known: a key, by its id and name, or a token's subject. */
  by: { key: string; name: string } | { subject: string };
}

/** The scopes that these give. */
export function granted(scopes: readonly Scope[]): ReadonlySet<Scope> {
  return new Set(scopes.includes('admin') ? SCOPES : scopes);
}

declare module 'node:http' {
  interface IncomingMessage {
    /** Absent: nobody was asked. */
    principal?: Principal;
  }
}
