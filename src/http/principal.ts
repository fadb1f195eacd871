/** What a caller may do. */
export const SCOPES = ['read', 'write', 'delete', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** Who sent a request, once it is known. */
export interface Principal {
  /** Whose threads it sees; `''` is the tenant of what was stored without any. */
  tenant: string;
  scopes: ReadonlySet<Scope>;
}

declare module 'node:http' {
  interface IncomingMessage {
    /** Absent: nobody was asked. */
    principal?: Principal;
  }
}
