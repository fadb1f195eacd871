import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, base64 } from './support/builders.js';
import { createDatabase, knowsLocale } from './support/database.js';
import { type PostAs, postingAs } from './support/keys.js';
import { until } from './support/process.js';
import { pythonSetup } from './support/python-saver.js';
import { TABLES } from './support/schema.js';

const MAIN = fileURLToPath(new URL('../dist/src/main.js', import.meta.url));

let app: TestApp;
let postAs: PostAs;
beforeEach(async () => {
  app = await startApp({ AUTH_MODE: 'keys' });
  postAs = postingAs(app);
});
afterEach(() => app.close());

function begin(url: string, ...args: string[]) {
  const child = spawn(process.execPath, [MAIN, 'tenants', ...args], {
    cwd: tmpdir(), // where no .env is
    env: { PATH: process.env.PATH, DATABASE_URL: url },
  });
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, output, errors }));
  return { child, ended };
}

const tenants = (...args: string[]) => begin(app.database.url, ...args).ended;

/** Two checkpoints with a blob and a write each: six rows. */
async function aThread(thread_id: string, tenant = ''): Promise<void> {
  for (const checkpoint_id of ['1', '2']) {
    const key = { thread_id, checkpoint_id };
    const blob = { channel: 'c', version: checkpoint_id, type: 't', blob: base64(`${tenant} ${thread_id}`) };
    const checkpoint = { channel_versions: { c: checkpoint_id } };
    expect((await postAs(tenant, 'put', aPut({ ...key, checkpoint, blobs: [blob] }))).status).toBe(200);
    expect((await postAs(tenant, 'put-writes', aPutWrites(key))).status).toBe(204);
  }
}

/** All that a tenant can read, thread by thread. */
async function everythingOf(tenant: string): Promise<Record<string, unknown[]>> {
  const list = await postAs(tenant, 'list', { include: ['blobs', 'pending_writes'] });
  const threads: Record<string, unknown[]> = {};
  for (const tuple of list.json as { thread_id: string }[]) (threads[tuple.thread_id] ??= []).push(tuple);
  return threads;
}

/** How many rows each stored id has. */
async function rowsByThread(): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const table of TABLES) {
    const rows = await app.database.sql<{ thread_id: string; n: number }>(
      `select thread_id, count(*)::int as n from ${table} group by thread_id`,
    );
    for (const { thread_id, n } of rows) counts.set(thread_id, (counts.get(thread_id) ?? 0) + n);
  }
  return counts;
}

describe('checkpoint-backend tenants', () => {
  it('counts the threads of each tenant, those too that have writes alone', async () => {
    await aThread('a');
    await aThread('a', 'acme');
    await aThread('b', 'acme');
    await postAs('acme', 'put-writes', aPutWrites({ thread_id: 'c' }));
    await aThread('a', 'acme-2');
    expect(await tenants('list')).toEqual({
      code: 0,
      output: 'TENANT  THREADS\n-       1\nacme    3\nacme-2  1\n',
      errors: '',
    });
  });

  it('moves the threads that are like a pattern, with every row, and no others', async () => {
    for (const id of ['acme-1', 'acme-2', 'Acme-3', 'other']) await aThread(id);
    await aThread('acme-1', 'z');
    const [before, others] = [await everythingOf(''), await everythingOf('z')];
    expect(await tenants('move', '--tenant', 'acme', '--threads-like', 'acme-%')).toEqual({
      code: 0,
      output: 'moved 2 threads of 12 rows; 0 stay\n',
      errors: '',
    });
    const { 'acme-1': one, 'acme-2': two, ...rest } = before;
    expect(await everythingOf('acme')).toEqual({ 'acme-1': one, 'acme-2': two });
    expect(await everythingOf('')).toEqual(rest);
    expect(await everythingOf('z')).toEqual(others);
  });

  it('moves single threads, from another tenant too, and all of them back', async () => {
    for (const id of ['a', 'b', 'c']) await aThread(id, 'acme');
    const before = await everythingOf('acme');
    const move = (...args: string[]) => tenants('move', ...args);
    expect((await move('--tenant', 'z', '--from', 'acme', '--thread', 'a', '--thread', 'c')).output).toBe(
      'moved 2 threads of 12 rows; 0 stay\n',
    );
    expect(Object.keys(await everythingOf('z')).sort()).toEqual(['a', 'c']);
    await move('--tenant', '', '--from', 'z', '--all');
    await move('--tenant', '', '--from', 'acme', '--threads-like', '%');
    expect([await everythingOf(''), await everythingOf('z'), await everythingOf('acme')]).toEqual([
      before,
      {},
      {},
    ]);
  });

  it('leaves alone, names and fails for a thread that the tenant has, or whose keys would be too long', async () => {
    const long = randomBytes(2100).toString('base64').slice(0, 2684); // a saver takes what Postgres does
    for (const id of ['a', 'b', 'c']) await aThread(id);
    await app.database.sql(
      `insert into checkpoints (thread_id, checkpoint_id, checkpoint) values ($1, '1', '{}')`,
      [long],
    );
    await aThread('b', 'acme');
    await postAs('acme', 'put-writes', aPutWrites({ thread_id: 'c' }));
    const before = [await everythingOf(''), await everythingOf('acme')];
    const { code, output, errors } = await tenants('move', '--tenant', 'acme', '--all');
    expect([code, output, errors.split('\n').sort()]).toEqual([
      1,
      'moved 1 threads of 6 rows; 3 stay\n',
      [
        '',
        '"b" stays: the tenant has a thread of that id',
        '"c" stays: the tenant has a thread of that id',
        `"${long}" stays: its keys would be too long`,
      ].sort(),
    ]);
    const { a, ...rest } = before[0] ?? {};
    expect(await everythingOf('')).toEqual(rest);
    expect(await everythingOf('acme')).toEqual({ ...before[1], a });
  });

  it('goes on after it was killed; no thread is ever in two pieces', async () => {
    await app.database.sql(
      `insert into checkpoints (thread_id, checkpoint_id, checkpoint)
       select 't' || t, n::text, '{}' from generate_series(1, 400) as t, generate_series(1, 3) as n`,
    );
    await app.database.sql(
      `insert into checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, blob, task_path)
       select thread_id, checkpoint_id, 'task', 0, 'c', '', '' from checkpoints`,
    );
    const { child, ended } = begin(app.database.url, 'move', '--tenant', 'acme', '--all');
    const moved = async () => [...(await rowsByThread()).keys()].filter((id) => id.startsWith('\u0001'));
    await until('a thread has moved', async () => (await moved()).length > 0);
    child.kill('SIGKILL');
    expect((await ended).code).toBeNull();
    const before = (await moved()).length;
    expect(before).toBeLessThan(400);
    expect(new Set((await rowsByThread()).values())).toEqual(new Set([6]));
    const { output } = await tenants('move', '--tenant', 'acme', '--all');
    expect(output).toBe(`moved ${400 - before} threads of ${6 * (400 - before)} rows; 0 stay\n`);
    expect(await moved()).toHaveLength(400);
  });

  it('finds each thread of an adopted database, whose locale orders ids otherwise than the logs', async () => {
    if (!(await knowsLocale('en-US'))) return;
    const adopted = await createDatabase({ like: 'empty', locale: 'en-US' });
    try {
      await pythonSetup(adopted.sql);
      await promisify(execFile)(process.execPath, [MAIN, 'migrate'], {
        cwd: tmpdir(),
        env: { PATH: process.env.PATH, DATABASE_URL: adopted.url },
      });
      await adopted.sql(
        `insert into checkpoints (thread_id, checkpoint_id, checkpoint)
         select id, '1', '{}' from (select 'B' || 1000 + n as id from generate_series(1, 501) as n union all values ('a')) as ids`,
      );
      await adopted.sql(
        `insert into checkpoint_deltas (thread_id, log, at, delta)
         select thread_id, 1, 0, '' from checkpoints where thread_id like 'B%'`,
      );
      const { output } = await begin(adopted.url, 'move', '--tenant', 'acme', '--all').ended;
      expect(output).toBe('moved 502 threads of 1003 rows; 0 stay\n');
    } finally {
      await adopted.drop();
    }
  });

  it('works while agents do, and finds what they left behind', async () => {
    for (let n = 0; n < 60; n += 1) await aThread(`t${n}`);
    let isMoving = true;
    const statuses = new Set<number>();
    const agent = async (thread_id: string) => {
      for (let n = 10; isMoving; n += 1) {
        const body = { thread_id, checkpoint_id: `${n}` };
        statuses.add((await postAs('', 'put', aPut(body))).status);
        statuses.add((await postAs('', 'put-writes', aPutWrites(body))).status);
        statuses.add((await postAs('', 'get-tuple', { thread_id })).status);
      }
    };
    const agents = ['t1', 't50', 'apart', 'apart'].map(agent);
    const first = await tenants('move', '--tenant', 'acme', '--threads-like', 't%');
    isMoving = false;
    await Promise.all(agents);
    expect([first.code, statuses]).toEqual([0, new Set([200, 204])]);
    expect(Object.keys(await everythingOf('acme'))).toHaveLength(60);
    const left = Object.keys(await everythingOf(''));
    expect(left).toContain('apart');
    const again = await tenants('move', '--tenant', 'acme', '--threads-like', 't%');
    expect(again.output).toBe(`moved 0 threads of 0 rows; ${left.length - 1} stay\n`);
  });
});
