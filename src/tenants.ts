import 'reflect-metadata';
import { parseArgs } from 'node:util';
import type { Client } from 'pg';
import { countThreads, type Move, moveThreads } from './checkpoints/move-threads.js';
import { settingsFromEnvironment } from './config/env.js';
import { leaseDatabase } from './database/database-lease.js';
import { connect } from './database/server.js';
import { createLogger } from './http/logging.js';
import { isTenant } from './http/principal.js';

const USAGE = `usage: npm run --silent tenants -- list
       npm run --silent tenants -- move --tenant NAME [--from NAME] --thread ID [--thread ID …]
       npm run --silent tenants -- move --tenant NAME [--from NAME] --threads-like PATTERN
       npm run --silent tenants -- move --tenant NAME [--from NAME] --all
The default tenant's name is '', which --from is without.`;

type Command = (client: Client, schema: string) => Promise<void>;

function commandOf(args: string[]): Command {
  const { positionals, values } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      tenant: { type: 'string' },
      from: { type: 'string', default: '' },
      thread: { type: 'string', multiple: true },
      'threads-like': { type: 'string' },
      all: { type: 'boolean' },
    },
  });
  const { tenant: to, from, thread: ids, 'threads-like': like, all } = values;
  const [name] = positionals;
  if (name === 'list' && Object.keys(values).length === 1) return list;
  const threads = [
    ...(ids ? [{ ids }] : []),
    ...(like === undefined ? [] : [{ like }]),
    ...(all ? [{ like: '%' }] : []),
  ];
  const [selection] = threads;
  if (name !== 'move' || to === undefined || selection === undefined || threads.length > 1) {
    throw new Error(USAGE);
  }
  for (const tenant of [to, from]) {
    if (!isTenant(tenant)) throw new Error(`${JSON.stringify(tenant)} is no name of a tenant`);
  }
  if (to === from) throw new Error('The threads are that tenant’s already');
  return (client, schema) => move(client, schema, { from, to, threads: selection });
}

async function list(client: Client, schema: string): Promise<void> {
  for (const { tenant, threads } of await countThreads(client, schema)) {
    console.log(`${threads}\t${tenant || "'' (default)"}`);
  }
}

async function move(client: Client, schema: string, request: Move): Promise<void> {
  const count = { threads: 0, rows: 0, refused: 0 };
  for await (const { threadId, rows, refused } of moveThreads(client, schema, request)) {
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
}

try {
  const run = commandOf(process.argv.slice(2));
  const settings = settingsFromEnvironment({ serves: false });
  const database = await leaseDatabase(settings, createLogger(settings.logLevel));
  try {
    const client = await connect(settings, database.url);
    try {
      await run(client, settings.databaseSchema);
    } finally {
      await client.end();
    }
  } finally {
    await database.release();
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
