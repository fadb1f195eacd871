import type { ApiKey } from './api-key.js';

/** Where keys come from. */
export interface Keys {
  start: () => Promise<void>;
  stop: () => void;
  /** At once for a key that is known. Null: there is none. @throws DatabaseUnavailableError when that cannot be said */
  find: (id: string) => ApiKey | null | Promise<ApiKey | null>;
}
