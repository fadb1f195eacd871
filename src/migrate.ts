import 'reflect-metadata';
import { settingsFromEnvironment } from './config/env.js';
import { leaseDatabase } from './database/database-lease.js';
import { migrate, revert } from './database/migrate.js';
import { createLogger } from './http/logging.js';

const USAGE = 'usage: npm run migrate [-- run | revert]';

try {
  const [command = 'run'] = process.argv.slice(2);
  if (command !== 'run' && command !== 'revert') throw new Error(USAGE);
  const settings = settingsFromEnvironment({ serves: false });
  const database = await leaseDatabase(settings, createLogger(settings.logLevel));
  try {
    if (command === 'revert') {
      const reverted = await revert(settings, database.url);
      console.log(reverted === null ? 'There is nothing to revert' : `Reverted ${reverted}`);
    } else {
      const ran = await migrate(settings, database.url);
      console.log(ran.length > 0 ? ran.join('\n') : 'The schema is up to date');
    }
  } finally {
    await database.release();
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
