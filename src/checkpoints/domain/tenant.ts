/** Whose threads are seen: of several tenants each has a world of threads of its own, in the same tables. */

/** Stands around a tenant's name, which cannot hold it, and begins no id of a caller: so no two ids are stored as one. */
const MARK = '\u0001';
const AFTER_MARK = '\u0002';

declare const STORED: unique symbol;

/** A thread's id as the tables have it. There is no other way to one than `storedThreadId` and the tables themselves. */
export type StoredThreadId = string & { readonly [STORED]: never };

/** All threads of a tenant. */
export interface TenantThreads {
  tenant: string;
}

/** The id under which the tables have a tenant's thread; null for an id that may be another tenant's stored one. */
export function storedThreadId(tenant: string, threadId: string): StoredThreadId | null {
  if (threadId.startsWith(MARK)) return null;
  return (tenant === '' ? threadId : MARK + tenant + MARK + threadId) as StoredThreadId;
}

/** The id by which the tenant itself knows the thread. */
export function callersThreadId(stored: StoredThreadId): string {
  return stored.startsWith(MARK) ? stored.slice(stored.indexOf(MARK, 1) + 1) : stored;
}

/** Whose thread it is. */
export function tenantOfThread(stored: StoredThreadId): string {
  return stored.startsWith(MARK) ? stored.slice(1, stored.indexOf(MARK, 1)) : '';
}

/** The stored ids of a tenant, byte by byte from `first` on and below `end`; without a tenant those of all that have a name. */
export function rangeOf(tenant: string): { first: string; end: string } {
  return tenant === ''
    ? { first: MARK, end: AFTER_MARK }
    : { first: MARK + tenant + MARK, end: MARK + tenant + AFTER_MARK };
}
