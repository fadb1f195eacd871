import type { ApiKey } from './domain/api-key.js';

/** Where keys come from. */
export interface Keys {
  start: () => Promise<void>;
  stop: () => void;
  known: (id: string) => ApiKey | undefined;
  /** One that is not known. Null: there is none. @throws DatabaseUnavailableError when that cannot be said */
  find: (id: string) => null | Promise<ApiKey | null>;
  /** Somebody was let in by the key. */
  used: (key: ApiKey) => void;
}
