import { randomUUID } from 'node:crypto';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/** What a role or a database may say, and what the service's statements need. */
const PINNED = {
  jit: { given: 'on', needed: 'off' },
  max_parallel_workers_per_gather: { given: '4', needed: '0' },
  search_path: { given: 'public', needed: 'pg_catalog, pg_temp' },
  row_security: { given: 'on', needed: 'off' },
  transaction_isolation: {
    set: 'default_transaction_isolation',
    given: 'serializable',
    needed: 'read committed',
  },
  standard_conforming_strings: { given: 'off', needed: 'on' },
  plan_cache_mode: { given: 'force_custom_plan', needed: 'auto' },
  TimeZone: { given: 'Asia/Kolkata', needed: 'UTC' },
};

const isDirect = process.env.TEST_POOLER_URL === undefined;

describe.each(['true', 'false'])('whatever the database says, FAST_PATH=%s', (FAST_PATH) => {
  let database: TestDatabase;
  let app: TestApp;
  beforeAll(async () => {
    database = await createDatabase();
    for (const [name, setting] of Object.entries(PINNED)) {
      const set = 'set' in setting ? setting.set : name;
      await database.sql(`do $$ begin
        execute format('alter database %I set ${set} = %L', current_database(), '${setting.given}');
      end $$`);
    }
    // What each statement ran with is written down by the rows that it stores or deletes.
    await database.sql('create table public.seen (operation text, name text, value text)');
    await database.sql(`create function public.look() returns trigger language plpgsql as
      $$ begin
           insert into public.seen
           select tg_op || ' ' || tg_table_name, name, pg_catalog.current_setting(name)
             from pg_catalog.unnest('{${Object.keys(PINNED).join()}}'::text[]) as name;
           return coalesce(new, old);
         end $$`);
    for (const table of ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes']) {
      await database.sql(
        `create trigger look before insert or update or delete on ${table} for each row execute function public.look()`,
      );
    }
    app = await startApp({ FAST_PATH }, database);
  });
  afterAll(async () => {
    await app.close();
    await database.drop();
  });

  it('statements run with what they need', async () => {
    const [thread_id, target_thread_id] = [aThread(), aThread()];
    const blobs = [{ channel: 'c', version: '1', type: 't', blob: '' }];
    const requests: [string, object][] = [
      ['put', aPut({ thread_id, blobs, metadata: { run_id: thread_id } })],
      ['put-writes', aPutWrites({ thread_id })],
      ['copy-thread', { source_thread_id: thread_id, target_thread_id }],
      ['prune', { thread_ids: [target_thread_id], strategy: 'delete' }],
      ['delete-for-runs', { run_ids: [thread_id] }],
      ['delete-thread', { thread_id }],
    ];
    for (const [operation, body] of requests) {
      const { status } = await app.post(operation, body);
      expect([operation, Math.trunc(status / 100)]).toEqual([operation, 2]);
    }
    const seen = await database.sql<{ operation: string; name: string; value: string }>('select * from seen');
    expect(new Set(seen.map(({ operation }) => operation)).size).toBeGreaterThanOrEqual(5);
    // Behind a pooler a statement's transaction has begun before it could be told.
    const told = seen.filter(({ name }) => isDirect || name !== 'transaction_isolation');
    const wrong = told.filter(({ name, value }) => PINNED[name as keyof typeof PINNED].needed !== value);
    expect(wrong).toEqual([]);
  });

  // A pooler has to know the role.
  (isDirect ? it : it.skip)(
    'a policy that hides rows makes reads fail, and none comes back empty',
    async () => {
      const thread_id = aThread();
      await app.post('put', aPut({ thread_id }));
      const role = `plain_${randomUUID().replaceAll('-', '')}`;
      await database.sql(`create role ${role} login password 'plain'`);
      await database.sql(`grant select, insert, update, delete on all tables in schema public to ${role}`);
      const url = Object.assign(new URL(database.url), { username: role, password: 'plain' });
      const plain = await startApp({ FAST_PATH, DATABASE_URL: url.href }, database);
      expect((await plain.post('get-tuple', { thread_id })).json).toMatchObject({ thread_id });
      await database.sql('alter table checkpoints enable row level security');
      expect((await plain.post('get-tuple', { thread_id })).status).toBe(500);
      expect((await plain.post('list', { thread_id })).status).toBe(500);
      await database.sql('alter table checkpoints disable row level security');
      await plain.close();
      await database.sql(`drop owned by ${role}`);
      await database.sql(`drop role ${role}`);
    },
  );
});
