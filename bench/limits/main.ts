/**
 * npm run bench:limits: what one request within the limits can take, and ten at once: memory, time, rows. Prints a table.
 * Linux, as root or as the user of Postgres; on a machine with memory to spare.
 *
 *   --only TEXT     scenarios whose operation or description has it
 *   --alone         not ten at once
 *   --output FILE   writes the table there
 */
import { writeFileSync } from 'node:fs';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import pg from 'pg';
import { SERVICE, Served } from '../candidates/served.js';
import { Database, inspect } from '../database.js';
import { runWithServer } from '../run.js';
import { type Request, SCENARIOS, type Scenario } from './scenarios.js';
import { MemoryWatch, type Peak } from './watch.js';

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    alone: { type: 'boolean', default: false },
    output: { type: 'string' },
  },
});
const AT_ONCE = 10;
const LIMIT_MS = 180_000;
/** A session of Postgres reports what it did at its end; then the collector has it soon. */
const REPORTED_MS = 300;
/** Postgres starts anew after one of its processes was killed. */
const RECOVERY_MS = 5000;

interface Answer {
  status: number | string;
  bytes: number;
  ms: number;
}

interface Seen extends Peak {
  answers: Answer[];
  /** Why Postgres was made to start anew; null: it was not. */
  ending: string | null;
  stallMs: number;
  rowsRead: number;
  rowsWritten: number;
  temporaryBytes: number;
}

function send(url: string, { operation, body, encoding }: Request): Promise<Answer> {
  const begun = performance.now();
  return new Promise((resolve) => {
    let bytes = 0;
    const done = (status: number | string) => {
      resolve({ status, bytes, ms: performance.now() - begun });
    };
    const request = http.request(`${url}/checkpoints/${operation}`, {
      method: 'POST',
      agent: false,
      headers: {
        'content-type': operation === 'batch' ? 'application/x-ndjson' : 'application/json',
        'content-length': body.length,
        ...(encoding !== undefined && { 'content-encoding': encoding }),
      },
      signal: AbortSignal.timeout(LIMIT_MS),
    });
    request.on('error', (error: NodeJS.ErrnoException) => {
      done(error.name === 'AbortError' ? `none in ${LIMIT_MS / 1000} s` : (error.code ?? error.message));
    });
    request.on('response', (response) => {
      response.on('data', (part: Buffer) => (bytes += part.length));
      response.on('error', () => undefined); // the request has it too
      response.on('end', () => {
        done(response.statusCode ?? 0);
      });
    });
    request.end(body);
  });
}

/** What Postgres has done so far. */
async function counters(database: Database): Promise<{ read: number; written: number; temporary: number }> {
  await delay(REPORTED_MS);
  const [row] = await database.query<{ read: number; written: number; temporary: number }>(
    `select (sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)))::float8 as read,
            (sum(n_tup_ins) + sum(n_tup_upd) + sum(n_tup_del))::float8 as written,
            (select temp_bytes::float8 from pg_stat_database where datname = current_database()) as temporary
       from pg_stat_user_tables where relname like 'checkpoint%'`,
  );
  if (row === undefined) throw new Error('No statistics');
  return row;
}

/** Sends the requests at once to a service of their own. */
async function observe(database: Database, postmaster: number, requests: Request[]): Promise<Seen> {
  const before = await counters(database);
  const service = await new Served('service', database, SERVICE).start();
  const { pid, address } = service;
  if (pid === null) throw new Error('The service has no process');
  const probe = new Worker(new URL('probe.js', import.meta.url), { workerData: address });
  const longest = () =>
    new Promise<number>((resolve) => {
      probe.once('message', resolve);
      probe.postMessage('longest');
    });
  try {
    await warmUp(address);
    await longest();
    const watch = new MemoryWatch(pid, postmaster);
    const answers = await Promise.all(requests.map((request) => send(address, request)));
    const peak = watch.end();
    await delay(50);
    const stallMs = await longest();
    await service.stop();
    const killed = await endStatements(database.url);
    const ending = peak.isStopped ? 'memory ran out' : killed > 0 ? `${killed} could not be cancelled` : null;
    const after = ending === null ? await counters(database) : { read: NaN, written: NaN, temporary: NaN };
    return {
      ...{ ...peak, answers, stallMs, ending },
      rowsRead: after.read - before.read,
      rowsWritten: after.written - before.written,
      temporaryBytes: after.temporary - before.temporary,
    };
  } finally {
    await probe.terminate();
    await service.stop();
  }
}

/** Opens the connections, and makes the statement known, by reads of what is not there. */
async function warmUp(url: string): Promise<void> {
  const body = (n: number) => Buffer.from(`{"thread_id":"warm-${n % 20}"}`);
  await Promise.all(
    Array.from({ length: 200 }, (_, n) => send(url, { operation: 'get-tuple', body: body(n) })),
  );
  await delay(200);
}

async function measure(serverUrl: string, { request, stored = [] }: Scenario): Promise<Seen[]> {
  const { postmaster } = await inspect(serverUrl);
  if (postmaster === null) throw new Error('Postgres has to run on this machine');
  const database = await Database.create(serverUrl, 'bench_limits');
  try {
    await (await new Served('service', database, SERVICE).start()).stop(); // makes the tables
    for (const statement of stored) await database.query(statement);
    await database.settle();
    await database.query('select pg_stat_force_next_flush()'); // what was stored is none of the requests' doing
    const idle = await observe(database, postmaster, []);
    const without = (seen: Seen) => ({
      ...{
        ...seen,
        rowsRead: seen.rowsRead - idle.rowsRead,
        rowsWritten: seen.rowsWritten - idle.rowsWritten,
      },
    });
    const alone = without(await observe(database, postmaster, [request(0)]));
    if (options.alone || alone.ending !== null) return [alone];
    const many = Array.from({ length: AT_ONCE }, (_, n) => request(n + 1));
    return [alone, without(await observe(database, postmaster, many))];
  } finally {
    await database.end().catch(() => undefined); // the server may have begun anew
  }
}

/** Some statements cannot be cancelled, and would take the next scenario's time: their processes are killed. Resolves with their number. */
async function endStatements(url: string): Promise<number> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  await delay(1000); // that a service which is gone leaves behind
  const { rows } = await client.query<{ pid: number }>(
    `select pid from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()`,
  );
  for (const { pid } of rows) process.kill(pid, 'SIGKILL');
  await client.end().catch(() => undefined);
  if (rows.length > 0) await delay(RECOVERY_MS);
  return rows.length;
}

const mb = (bytes: number) => `${Math.round(bytes / 1e6)} MB`;
const count = (n: number) => (Number.isNaN(n) ? '?' : n.toLocaleString('en'));

function row({ operation, what }: Scenario, seen: Seen, requests: Request[], howMany: string): string {
  const statuses = new Map<number | string, number>();
  for (const { status } of seen.answers) statuses.set(status, (statuses.get(status) ?? 0) + 1);
  const cells = [
    operation,
    what,
    howMany,
    `${Math.round((requests[0]?.body.length ?? 0) / 1000)} kB`,
    [...statuses].map(([status, n]) => (n > 1 ? `${n} × ${status}` : String(status))).join(', ') +
      (seen.ending === null ? '' : `, ${seen.ending}`),
    mb(Math.max(...seen.answers.map(({ bytes }) => bytes))),
    `${(Math.max(...seen.answers.map(({ ms }) => ms)) / 1000).toFixed(1)} s`,
    `${Math.round(seen.stallMs)} ms`,
    `${mb(seen.serviceBefore)} → ${mb(seen.service)}`,
    mb(seen.oneBackend),
    mb(Math.max(seen.oneBackend, seen.allBackends)),
    mb(seen.temporaryBytes || 0),
    count(seen.rowsRead),
    count(seen.rowsWritten),
  ];
  return `| ${cells.join(' | ')} |`;
}

const HEADER = [
  ...['operation', 'request', 'at once', 'sent, each', 'answer', 'bytes of it', 'longest', 'longest probe'],
  ...['service', 'one backend', 'all backends', 'temporary files', 'rows read', 'rows written'],
];
const lines: string[] = [];

function print(line: string): void {
  lines.push(line);
  console.log(line);
  if (options.output !== undefined) writeFileSync(options.output, `${lines.join('\n')}\n`);
}

await runWithServer('limits', async (serverUrl) => {
  let failures = 0;
  print(`| ${HEADER.join(' | ')} |`);
  print(`|${' --- |'.repeat(HEADER.length)}`);
  for (const scenario of SCENARIOS) {
    if (!`${scenario.operation} ${scenario.what}`.includes(options.only)) continue;
    try {
      for (const [n, seen] of (await measure(serverUrl, scenario)).entries()) {
        print(row(scenario, seen, [scenario.request(n)], n === 0 ? '1' : String(AT_ONCE)));
      }
    } catch (error) {
      failures += 1;
      print(`| ${scenario.operation} | ${scenario.what} | ${String(error)} |`);
      await delay(RECOVERY_MS);
    }
  }
  if (failures > 0) throw new Error(`${failures} scenarios failed`);
});
