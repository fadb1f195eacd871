import { Command } from 'commander';
import { settingsFromEnvironment } from '../config/env.js';
import { withDatabase } from './database.js';
import { FailureError, printJson, printTable } from './outcome.js';

export function migrateCommand(): Command {
  const command = new Command('migrate').description(
    'Bring the schema up to date, or say what is to be done.',
  );
  command
    .command('run')
    .description('Apply the migrations that are missing. The default.')
    .option('--grant-to <role>', 'give the role the rights that the service needs')
    .action(runMigrations);
  command
    .command('revert')
    .description('Take back the last migration, unless it would drop a table that holds rows.')
    .action(revertMigration);
  command
    .command('status')
    .description('List the migrations, and whether the database has them.')
    .option('--json', 'as JSON')
    .option('--check', 'fail when one is missing, or a right that the service needs as this role')
    .action(status);
  command
    .command('grants')
    .description('Print the statements that give a role the rights that the service needs. Asks no database.')
    .argument('<role>', 'the role of the service')
    .action(printGrants);
  return command;
}

async function runMigrations({ grantTo: role }: { grantTo?: string }): Promise<void> {
  const { grantTo, inspectRights, migrate } = await import('../database/migrate.js');
  const settings = settingsFromEnvironment({ serves: false });
  await withDatabase(settings, settings.logLevel, async (url) => {
    const ran = await migrate(settings, url);
    console.log(ran.length > 0 ? ran.join('\n') : 'The schema is up to date');
    if (role !== undefined) console.log((await grantTo(settings, url, role)).join(';\n') + ';');
    const fault = await inspectRights(settings, url);
    if (fault !== null) console.error(`warning: for the role that migrated: ${fault}`);
  });
}

async function revertMigration(): Promise<void> {
  const { revert } = await import('../database/migrate.js');
  const settings = settingsFromEnvironment({ serves: false });
  await withDatabase(settings, settings.logLevel, async (url) => {
    const reverted = await revert(settings, url);
    console.log(reverted === null ? 'There is nothing to revert' : `Reverted ${reverted}`);
  });
}

/** @throws FailureError with what is missing, when that is to be checked */
async function status({ json, check }: { json?: true; check?: true }): Promise<void> {
  const { inspectRights, migrationStatus } = await import('../database/migrate.js');
  const settings = settingsFromEnvironment({ serves: false });
  await withDatabase(settings, settings.logLevel, async (url) => {
    // First, since a role that lacks rights may not read the migrations either.
    const fault = check ? await inspectRights(settings, url) : null;
    if (fault !== null) throw new FailureError(fault);
    const migrations = await migrationStatus(settings, url);
    if (json) printJson(migrations);
    else
      printTable(
        ['MIGRATION', 'APPLIED'],
        migrations.map(({ name, isApplied }) => [name, isApplied ? 'yes' : 'no']),
      );
    const missing = migrations.filter(({ isApplied }) => !isApplied).map(({ name }) => name);
    if (check && missing.length > 0) {
      throw new FailureError(`The database lacks migrations: ${missing.join(', ')}`);
    }
  });
}

async function printGrants(role: string): Promise<void> {
  const { grantsFor } = await import('../database/rights.js');
  const { databaseSchema } = settingsFromEnvironment({ serves: false });
  console.log(grantsFor(databaseSchema, role).join(';\n') + ';');
}
