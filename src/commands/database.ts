import type { Settings } from '../config/env.js';

/**
 * Does the work on the database of the settings, an embedded one too, which it stops afterwards. What is logged from
 * `level` on goes to standard error, since standard output is the command's result.
 */
export async function withDatabase(
  settings: Settings,
  level: string,
  work: (url: string) => Promise<void>,
): Promise<void> {
  const { leaseDatabase } = await import('../database/database-lease.js');
  const { createCommandLogger } = await import('../observability/logging.js');
  const database = await leaseDatabase(settings, createCommandLogger(level));
  try {
    await work(database.url);
  } finally {
    await database.release();
  }
}
