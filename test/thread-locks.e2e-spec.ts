import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { NewCheckpoint } from '../src/checkpoints/domain/checkpoint.js';
import { type Store, StoreStatement } from '../src/checkpoints/sql/store.statement.js';
import type { StoredThreadId } from '../src/checkpoints/domain/tenant.js';
import { startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites, aThread, base64 } from './support/builders.js';
import { until } from './support/process.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

/** Another session, in a transaction. */
async function inSession(work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({
    connectionString: process.env.TEST_SERVER_URL?.replace(/\/[^/]*$/, new URL(app.database.url).pathname),
  });
  await client.connect();
  try {
    await client.query('begin');
    await work(client);
  } finally {
    await client.end();
  }
}

const lock = (client: pg.Client, thread: string) =>
  client.query(`select pg_advisory_xact_lock(hashtextextended($1, 5004))`, [thread]);
const idsOf = async (threads: string[]) =>
  (
    await app.database.sql<{ thread_id: string }>(
      `select thread_id from checkpoints where thread_id = any($1)
        union all select thread_id from checkpoint_blobs where thread_id = any($1)
        union all select thread_id from checkpoint_writes where thread_id = any($1)`,
      [threads],
    )
  ).map(({ thread_id }) => thread_id);

describe('the statement of stores', () => {
  const statement = new StoreStatement({
    ...{
      checkpoints: 'public.checkpoints',
      blobs: 'public.checkpoint_blobs',
      writes: 'public.checkpoint_writes',
      deltas: 'public.checkpoint_deltas',
    },
  });
  const keyOf = (thread: string) => ({
    ...{ threadId: thread as StoredThreadId, checkpointNs: '', checkpointId: '1' },
  });
  const checkpoint = (thread: string): Store => ({
    checkpoint: {
      ...{ key: keyOf(thread), parentCheckpointId: null, checkpoint: '{}', metadata: '{}' },
      blobs: [{ channel: 'c', version: '1', type: 't', blob: Buffer.from('b') }],
    } satisfies NewCheckpoint,
  });
  const writes = (thread: string, onConflict: 'keep' | 'replace', taskId: string): Store => ({
    ...{ key: keyOf(thread), onConflict },
    writes: [{ taskId, idx: 0, channel: 'c', type: 't', blob: Buffer.from('w'), taskPath: '' }],
  });
  const all = (thread: string) => [
    checkpoint(thread),
    writes(thread, 'keep', 'kept'),
    writes(thread, 'replace', 'replaced'),
  ];

  it('stores nothing of a thread that is in use, says so, and waits for nobody', async () => {
    const [busy, free, alsoFree] = [aThread(), aThread(), aThread()];
    await inSession(async (client) => {
      await lock(client, busy);
      const { sql, parameters } = statement.of([...all(busy), ...all(free), ...all(alsoFree)], {
        ...{ tenant: '', since: 0, isShared: true, lockWaitMs: 60_000 },
      });
      expect(await app.database.sql(sql, parameters)).toEqual([{ id: busy }]);
    });
    expect(await idsOf([busy])).toEqual([]);
    expect(await idsOf([free, alsoFree])).toHaveLength(8);
  });

  it.each([
    ['its thread', (client: pg.Client, thread: string) => lock(client, thread)],
    [
      'a row',
      (client: pg.Client, thread: string) =>
        client.query(`insert into checkpoint_blobs values ($1, '', 'c', '1', 't', '')`, [thread]),
    ],
  ])('gives up when %s is locked for longer than it may wait, and leaves nothing behind', async (_, hold) => {
    const thread = aThread();
    const { sql, parameters } = statement.of(all(thread), {
      ...{ tenant: '', since: 0, isShared: false, lockWaitMs: 100 },
    });
    await inSession(async (client) => {
      await hold(client, thread);
      await expect(app.database.sql(sql, parameters)).rejects.toMatchObject({ code: '55P03' });
    });
    expect(await idsOf([thread])).toEqual([]);
    // The bound ends with its transaction.
    expect(await app.database.sql('show lock_timeout')).toEqual([{ lock_timeout: '0' }]);
    expect(await app.database.sql(sql, parameters)).toEqual([]);
    expect(await idsOf([thread])).toHaveLength(4);
  });
});

describe('what is done to whole threads', () => {
  const seed = (threads: string[], run_id: string) =>
    app.database.sql(
      `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
       select id, '', n::text, '{}', case n when 1 then jsonb_build_object('run_id', $2::text) else '{}' end
         from unnest($1::text[]) as id
        cross join generate_series(1, 2) as n`,
      [threads, run_id],
    );

  it.each([
    [
      'prune keep_latest',
      (threads: string[]) => app.post('prune', { thread_ids: threads, strategy: 'keep_latest' }),
    ],
    ['prune delete', (threads: string[]) => app.post('prune', { thread_ids: threads, strategy: 'delete' })],
    ['delete-for-runs', (_: string[], run: string) => app.post('delete-for-runs', { run_ids: [run] })],
  ])('%s takes few places in the lock table, however many threads there are', async (_, deed) => {
    const [run, threads] = [aThread(), Array.from({ length: 1000 }, () => aThread())];
    await seed(threads, run);
    await app.database.sql(`
      create or replace function count_locks() returns trigger language plpgsql as $$
      begin
        if (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) not between 1 and 64 then
          raise exception 'too many locks, or none';
        end if;
        return null;
      end $$`);
    await app.database.sql(
      'create trigger count_locks after delete on checkpoints for each statement execute function count_locks()',
    );
    try {
      expect((await deed(threads, run)).status).toBe(204);
    } finally {
      await app.database.sql('drop trigger count_locks on checkpoints');
    }
    const left = await app.database.sql(
      'select from checkpoints where thread_id = any($1) and checkpoint_id = $2',
      [...[threads, '1']],
    );
    expect(left).toEqual([]);
  });

  it('does the other threads first when one is in use', async () => {
    const [run, threads] = [aThread(), Array.from({ length: 100 }, () => aThread()).sort()];
    const [busy = ''] = threads;
    await seed(threads, run);
    let pruned: ReturnType<TestApp['post']> | undefined;
    await inSession(async (client) => {
      await lock(client, busy);
      pruned = app.post('prune', { thread_ids: threads, strategy: 'delete' });
      await until('the others are gone', async () => (await idsOf(threads)).length === 2);
      // For longer than a lock is waited for at once: it is then tried again.
      await delay(2500);
    });
    expect((await pruned)?.status).toBe(204);
    expect(await idsOf(threads)).toEqual([]);
  });

  it.each([
    { threads: 2, what: 'prune' },
    { threads: 2, what: 'delete-for-runs' },
    { threads: 130, what: 'prune' },
    { threads: 130, what: 'delete-for-runs' },
  ])('$what of $threads is done to all when others use a row of one', async ({ threads: count, what }) => {
    const [run, threads] = [aThread(), Array.from({ length: count }, () => aThread()).sort()];
    await seed(threads, run);
    let deleted: ReturnType<TestApp['post']> | undefined;
    await inSession(async (client) => {
      await client.query('select from checkpoints where thread_id = $1 for update', [threads[1]]);
      deleted = app.post(what, {
        ...(what === 'prune' ? { thread_ids: threads, strategy: 'delete' } : { run_ids: [run] }),
      });
      await until('the others are gone', async () => (await idsOf(threads.slice(0, 1))).length < 2);
      // For longer than a lock is waited for at once: it is then tried again.
      await delay(2500);
    });
    expect((await deleted)?.status).toBe(204);
    const left = await app.database.sql(
      'select from checkpoints where thread_id = any($1) and ($2 or checkpoint_id = $3)',
      [threads, what === 'prune', '1'],
    );
    expect(left).toEqual([]);
  });

  it('keeps stores from their thread for a moment at most while it waits for a row', async () => {
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id }));
    let deleted: ReturnType<TestApp['post']> | undefined;
    await inSession(async (client) => {
      await client.query('select from checkpoints where thread_id = $1 for update', [thread_id]);
      deleted = app.post('delete-thread', { thread_id });
      await until('it waits', async () => {
        const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
        return (await app.database.sql(waiting)).length > 0;
      });
      // It lets go of the thread, and waits again, as often as it takes.
      for (let n = 0; n < 3; n += 1) {
        expect((await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: `${n}` }))).status).toBe(
          204,
        );
      }
    });
    expect((await deleted)?.status).toBe(204);
    expect(await idsOf([thread_id])).toEqual([]);
  });

  it('a run’s checkpoint that is copied meanwhile is deleted from the copy too', async () => {
    const [source, target, run_id] = [aThread(), aThread(), aThread()];
    await app.post('put', aPut({ thread_id: source, metadata: { run_id } }));
    const answers: ReturnType<TestApp['post']>[] = [];
    await inSession(async (client) => {
      await client.query(`insert into checkpoints values ($1, '', 'checkpoint-1', null, null, '{}', '{}')`, [
        target,
      ]);
      answers.push(app.post('copy-thread', { source_thread_id: source, target_thread_id: target }));
      const waiting = async (count: number) =>
        (
          await app.database.sql(
            `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
          )
        ).length === count;
      await until('the copy waits', () => waiting(1));
      answers.push(app.post('delete-for-runs', { run_ids: [run_id] }));
      await until('the delete waits', () => waiting(2));
    });
    expect((await Promise.all(answers)).map(({ status }) => status)).toEqual([204, 204]);
    expect(await idsOf([source, target])).toEqual([]);
  });
});

describe('a copy', () => {
  it.each([
    ['its own id', (id: string) => id, (_: string, target: string) => target],
    ['another id', () => 'another', () => 'another'],
    ['an id inside an object', (id: string) => ({ id }), (id: string) => ({ id })],
  ])('has in metadata.thread_id, where the source had %s, its own or the same', async (_, before, after) => {
    const [source, target] = [aThread(), aThread()];
    const rest = `"n": 1.0, "big": 12345678901234567890123, "nul": "\\u0000"`;
    const body = JSON.stringify(aPut({ thread_id: source, metadata: { thread_id: before(source) } }));
    await app.post('put', body.replace('"metadata":{', `"metadata":{${rest},`));
    await app.post('copy-thread', { source_thread_id: source, target_thread_id: target });
    const { text, json } = await app.post('get-tuple', { thread_id: target });
    expect(json.metadata.thread_id).toEqual(after(source, target));
    for (const part of ['"n": 1.0', '"big": 12345678901234567890123', '\\u0000'])
      expect(text).toContain(part);
  });

  it('keeps the bytes of a blob that its target has', async () => {
    const [source, target] = [aThread(), aThread()];
    const blob = (value: string) => [{ channel: 'c', version: '1', type: 't', blob: base64(value) }];
    const checkpoint = { v: 4, channel_versions: { c: '1' } };
    await app.post('put', aPut({ thread_id: source, checkpoint, blobs: blob('source') }));
    await app.post('put', aPut({ thread_id: target, checkpoint, blobs: blob('target') }));
    await app.post('copy-thread', { source_thread_id: source, target_thread_id: target });
    const { json } = await app.post('get-tuple', { thread_id: target });
    expect(json.blobs[0].blob).toBe(base64('target'));
  });
});
