import { Command, InvalidArgumentError, Option } from 'commander';
import type { Client } from 'pg';
import type { Selection } from '../checkpoints/sql/delta-status.js';
import type { Tables } from '../checkpoints/sql/tables.js';
import { settingsFromEnvironment } from '../config/env.js';
import { seconds, tenantName } from './arguments.js';
import { type Broken, brokenOf, megabytes, Progress, textOf, totalOf } from './blobs-report.js';
import { withDatabase } from './database.js';
import { printJson, printTable, UsageError } from './outcome.js';

export function blobsCommand(): Command {
  const command = new Command('blobs').description(
    'See and change how values are stored: whole, or as deltas.',
  );
  command
    .command('status')
    .description('List what each tenant has stored as deltas.')
    .addOption(tenant())
    .addOption(json())
    .action(status);
  command
    .command('compact')
    .description(
      'Store values as deltas that are stored whole, while the service runs. May be interrupted and run again.',
    )
    .addOption(tenant())
    .addOption(thread())
    .option('--older-than <time>', 'only threads whose newest checkpoint is older, such as 1h', seconds)
    .option('--rate <n>', 'at most so many values in a second', positive)
    .option('--dry-run', 'store nothing, and say what would be saved')
    .addOption(json())
    .action(compact);
  command
    .command('expand')
    .description(
      "Store values whole again, as LangGraph's own savers read them. Say which by --thread or --all. May be interrupted and run again.",
    )
    .addOption(tenant())
    .addOption(thread())
    .option('--all', 'all threads')
    .option('--yes', 'do it; without this, the command says how many bytes it needs')
    .addOption(json())
    .action(expand);
  command
    .command('verify')
    .description('Read every value that is stored as deltas, and report those that are broken.')
    .addOption(tenant())
    .addOption(thread())
    .option('--sweep', 'remove the logs that no value is in')
    .addOption(json())
    .action(verify);
  return command;
}

const json = () => new Option('--json', 'as JSON');

const tenant = () =>
  new Option(
    '--tenant <tenant>',
    "whose threads; '' is the default tenant (default: all, with --thread the default tenant)",
  ).argParser(tenantName);

const thread = () =>
  new Option('--thread <id>', 'a thread; may be given several times')
    .argParser((id: string, ids: string[]) => [...ids, id])
    .default([], 'all threads');

function positive(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('It is a number from 1 on.');
  return Number(text);
}

interface Which {
  tenant?: string;
  thread: string[];
  json?: true;
}

const selectionOf = ({ tenant: of, thread: ids }: Which): Selection => ({ tenant: of ?? null, ids });

async function status(options: Which): Promise<void> {
  const { statusOf } = await import('../checkpoints/sql/delta-status.js');
  await withTables(async (open, tables) => {
    const tenants = await statusOf(await open(), tables, { tenant: options.tenant ?? null, ids: [] });
    if (options.json) {
      printJson(tenants);
      return;
    }
    printTable(
      ['TENANT', 'THREADS', 'BLOBS', 'WRITES', 'LOGS', 'RECORDS', 'BYTES', 'BYTES EXPANDED'],
      tenants.map(({ tenant: name, ...counts }) => [name || '-', ...Object.values(counts).map(String)]),
    );
  });
}

interface CompactOptions extends Which {
  /** In seconds. */
  olderThan?: number;
  rate?: number;
  dryRun?: true;
}

async function compact({ olderThan, rate, dryRun, ...which }: CompactOptions): Promise<void> {
  const { threadsOf } = await import('../checkpoints/sql/delta-status.js');
  const { newestTimeOf } = await import('../checkpoints/sql/thread-age.js');
  const { ThreadCompaction } = await import('../checkpoints/sql/thread-compaction.js');
  await withTables(async (open, tables) => {
    const client = await open();
    const compaction = new ThreadCompaction(client, tables, dryRun === true);
    const sum = { threads: 0, values: 0, bytes_before: 0, bytes_after: 0 };
    const progress = new Progress();
    for await (const threadId of threadsOf(client, tables, selectionOf(which))) {
      if (olderThan !== undefined) {
        const newest = await newestTimeOf(client, tables, threadId);
        if (newest === null || newest > Date.now() - 1000 * olderThan) continue;
      }
      const before = sum.values;
      for await (const { values, bytesBefore, bytesAfter } of compaction.compact(threadId)) {
        sum.values += values;
        sum.bytes_before += bytesBefore;
        sum.bytes_after += bytesAfter;
        progress.tell(sum.values, `${megabytes(sum.bytes_before - sum.bytes_after)} saved`);
        if (rate !== undefined) await progress.slowDownTo(rate, sum.values);
      }
      if (sum.values > before) sum.threads += 1;
    }
    if (which.json) {
      printJson(sum);
      return;
    }
    console.log(
      `${dryRun ? 'would store' : 'stored'} ${sum.values} values of ${sum.threads} threads as deltas: ${megabytes(sum.bytes_before)} become ${megabytes(sum.bytes_after)}`,
    );
  });
}

interface ExpandOptions extends Which {
  all?: true;
  yes?: true;
}

async function expand({ all, yes, ...which }: ExpandOptions): Promise<void> {
  if (which.thread.length > 0 === (all === true)) {
    throw new UsageError('say which threads by one of --thread and --all');
  }
  const { statusOf, threadsInLogs } = await import('../checkpoints/sql/delta-status.js');
  const { expandThread } = await import('../checkpoints/sql/thread-expansion.js');
  await withTables(async (open, tables) => {
    const [client, reader] = [await open(), await open()];
    const selection = selectionOf(which);
    const left = async () => totalOf(await statusOf(client, tables, selection));
    const needed = await left();
    const need = `${needed.values} values need ${megabytes(needed.bytes)} where they take ${megabytes(needed.recordBytes)} now, before compression`;
    if (!yes) throw new UsageError(`${need}; --yes is missing`);
    console.error(need);
    const sum = { threads: 0, values: 0, bytes: 0, left: 0 };
    const progress = new Progress();
    for await (const threadId of threadsInLogs(client, tables, selection)) {
      sum.threads += 1;
      for await (const expanded of expandThread(reader, client, tables, threadId)) {
        if ('reason' in expanded) {
          console.error(`stays: ${textOf(brokenOf(threadId, expanded))}`);
          continue;
        }
        sum.values += expanded.values;
        sum.bytes += expanded.bytes;
        progress.tell(sum.values, `${megabytes(sum.bytes)} of ${megabytes(needed.bytes)}`);
      }
    }
    sum.left = (await left()).values;
    if (which.json) printJson(sum);
    else console.log(`stored ${sum.values} values of ${sum.threads} threads whole; ${sum.left} stay`);
    if (sum.left > 0) {
      console.error(
        'Values stay that are broken, or that were stored meanwhile: see `blobs verify` and BLOB_STORAGE',
      );
      process.exitCode = 1;
    }
  });
}

async function verify({ sweep, ...which }: Which & { sweep?: true }): Promise<void> {
  const { threadsInLogs } = await import('../checkpoints/sql/delta-status.js');
  const { deleteUnusedLogs } = await import('../checkpoints/sql/place-rows.js');
  const { withThreads } = await import('../checkpoints/sql/thread-turn.js');
  const { valuesOfThread } = await import('../checkpoints/sql/thread-values.js');
  await withTables(async (open, tables) => {
    const client = await open();
    const sum = { threads: 0, values: 0, broken: [] as Broken[], unused_logs: 0, removed_records: 0 };
    const progress = new Progress();
    for await (const threadId of threadsInLogs(client, tables, selectionOf(which))) {
      sum.threads += 1;
      let unused = 0;
      for await (const finding of valuesOfThread(client, tables, threadId)) {
        if (finding.kind === 'unused') unused += 1;
        if (finding.kind === 'fault') sum.broken.push(brokenOf(threadId, finding));
        if (finding.kind === 'value') sum.values += 1;
        progress.tell(sum.values, `${sum.broken.length} are broken`);
      }
      sum.unused_logs += unused;
      if (unused === 0 || !sweep) continue;
      const { rowCount } = await withThreads(client, [threadId], () =>
        client.query(deleteUnusedLogs(tables), [[threadId]]),
      );
      sum.removed_records += rowCount ?? 0;
    }
    if (which.json) printJson(sum);
    else {
      for (const broken of sum.broken) console.log(textOf(broken));
      console.log(
        `${sum.values} values of ${sum.threads} threads are as they were stored; ${sum.broken.length} faults; ${sum.unused_logs} logs are unused` +
          (sweep ? `, ${sum.removed_records} records of them were removed` : ''),
      );
    }
    if (sum.broken.length > 0) process.exitCode = 1;
  });
}

async function withTables(
  work: (open: () => Promise<Client>, tables: Tables) => Promise<void>,
): Promise<void> {
  const { connect } = await import('../database/server.js');
  const { tablesIn } = await import('../checkpoints/sql/tables.js');
  const settings = settingsFromEnvironment({ serves: false });
  await withDatabase(settings, settings.logLevel, async (url) => {
    const clients: Client[] = [];
    const open = async () => {
      const client = await connect(settings, url);
      clients.push(client);
      return client;
    };
    try {
      await work(open, tablesIn(settings.databaseSchema));
    } finally {
      await Promise.all(clients.map((client) => client.end()));
    }
  });
}
