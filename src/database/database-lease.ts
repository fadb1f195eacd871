import type { Logger } from 'pino';
import type { Settings } from '../config/env.js';
import { EmbeddedPostgres } from './embedded/embedded-postgres.js';

/** The server to use, and what to do when it is no longer needed. */
export interface DatabaseLease {
  url: string;
  release: () => Promise<void>;
}

/** DATABASE_URL's server; without that setting, an embedded one in DATA_DIR. */
export async function leaseDatabase(settings: Settings, logger: Logger): Promise<DatabaseLease> {
  if (settings.databaseUrl !== null) return { url: settings.databaseUrl, release: () => Promise.resolve() };
  const embedded = await EmbeddedPostgres.start({ dataDir: settings.dataDir, logger });
  return { url: embedded.privateUrl, release: () => embedded.stop() };
}
