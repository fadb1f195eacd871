import { Command, Option } from 'commander';
import type { Client } from 'pg';
import type { Selection } from '../checkpoints/sql/move-threads.js';
import { settingsFromEnvironment } from '../config/env.js';
import { tenantName } from './arguments.js';
import { withDatabase } from './database.js';
import { printJson, printTable, UsageError } from './outcome.js';

export function tenantsCommand(): Command {
  const command = new Command('tenants').description('Count and move the threads of tenants.');
  command
    .command('list')
    .description('List the tenants that have threads, and how many.')
    .option('--json', 'as JSON')
    .action(list);
  command
    .command('move')
    .description('Give threads to another tenant. Say which by one of --thread, --threads-like and --all.')
    .addOption(
      new Option('--tenant <tenant>', "the tenant that gets them; '' is the default tenant")
        .argParser(tenantName)
        .makeOptionMandatory(),
    )
    .addOption(
      new Option('--from <tenant>', 'the tenant that has them')
        .argParser(tenantName)
        .default('', 'the default tenant'),
    )
    .option('--thread <id>', 'a thread; may be given several times', (id, ids: string[]) => [...ids, id], [])
    .option('--threads-like <pattern>', 'the threads whose id is like an SQL pattern, such as team-%')
    .option('--all', 'all threads')
    .action(move);
  return command;
}

async function list({ json }: { json?: true }): Promise<void> {
  const { countThreads } = await import('../checkpoints/sql/move-threads.js');
  await withClient(async (client, schema) => {
    const counts = await countThreads(client, schema);
    if (json) printJson(counts);
    else
      printTable(
        ['TENANT', 'THREADS'],
        counts.map(({ tenant, threads }) => [tenant || '-', String(threads)]),
      );
  });
}

interface MoveOptions {
  tenant: string;
  from: string;
  thread: string[];
  threadsLike?: string;
  all?: true;
}

async function move({ tenant: to, from, thread: ids, threadsLike: like, all }: MoveOptions): Promise<void> {
  const selections: Selection[] = [
    ...(ids.length > 0 ? [{ ids }] : []),
    ...(like === undefined ? [] : [{ like }]),
    ...(all ? [{ like: '%' }] : []),
  ];
  const [threads] = selections;
  if (threads === undefined || selections.length > 1) {
    throw new UsageError('say which threads by one of --thread, --threads-like and --all');
  }
  if (to === from) throw new UsageError('--tenant and --from are the same tenant');
  const { moveThreads } = await import('../checkpoints/sql/move-threads.js');
  await withClient(async (client, schema) => {
    const count = { threads: 0, rows: 0, refused: 0 };
    for await (const { threadId, rows, refused } of moveThreads(client, schema, { from, to, threads })) {
      if (refused === null) {
        count.threads += 1;
        count.rows += rows;
        continue;
      }
      count.refused += 1;
      console.error(`${JSON.stringify(threadId)} stays: ${refused}`);
    }
    console.log(`moved ${count.threads} threads of ${count.rows} rows; ${count.refused} stay`);
    if (count.refused > 0) process.exitCode = 1;
  });
}

async function withClient(work: (client: Client, schema: string) => Promise<void>): Promise<void> {
  const { connect } = await import('../database/server.js');
  const settings = settingsFromEnvironment({ serves: false });
  await withDatabase(settings, settings.logLevel, async (url) => {
    const client = await connect(settings, url);
    try {
      await work(client, settings.databaseSchema);
    } finally {
      await client.end();
    }
  });
}
