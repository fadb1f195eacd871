import 'reflect-metadata';
import { parseArgs } from 'node:util';
import { settingsFromEnvironment } from './config/env.js';
import { leaseDatabase } from './database/database-lease.js';
import { grantTo, inspectRights, migrate, revert } from './database/migrate.js';
import { grantsFor } from './database/rights.js';
import { createLogger } from './http/logging.js';

const USAGE = `usage: npm run migrate [-- run [--grant-to ROLE] | revert | grants ROLE]
\`run\` brings the schema up to date, and with --grant-to gives ROLE the rights that the service needs.
\`revert\` takes back the last migration, unless it would drop a table that holds rows.
\`grants\` prints the statements that give ROLE these rights; it asks no database.`;

function commandOf() {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { 'grant-to': { type: 'string' } },
  });
  const [command = 'run', role, ...more] = positionals;
  const { 'grant-to': grantee } = values;
  const isKnown =
    (command === 'run' && role === undefined) ||
    (command === 'revert' && role === undefined && grantee === undefined) ||
    (command === 'grants' && role !== undefined && grantee === undefined);
  if (!isKnown || more.length > 0 || role === '' || grantee === '') throw new Error(USAGE);
  return { command, role: role ?? grantee };
}

try {
  const { command, role } = commandOf();
  const settings = settingsFromEnvironment({ serves: false });
  if (command === 'grants') {
    console.log(grantsFor(settings.databaseSchema, role ?? '').join(';\n') + ';');
  } else {
    const database = await leaseDatabase(settings, createLogger(settings.logLevel));
    try {
      if (command === 'revert') {
        const reverted = await revert(settings, database.url);
        console.log(reverted === null ? 'There is nothing to revert' : `Reverted ${reverted}`);
      } else {
        const ran = await migrate(settings, database.url);
        console.log(ran.length > 0 ? ran.join('\n') : 'The schema is up to date');
        if (role !== undefined) console.log((await grantTo(settings, database.url, role)).join(';\n') + ';');
        const fault = await inspectRights(settings, database.url);
        if (fault !== null) console.error(`Warning, for the role that migrated: ${fault}`);
      }
    } finally {
      await database.release();
    }
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
