import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, type TestApp, itMerging, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey } from './support/keys.js';

let database: TestDatabase;
let app: TestApp;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await database.sql('rollback');
  await app.close();
  await database.drop();
});

const BLOCKED = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
const blocked = async (count: number) => {
  for (;;) {
    await database.sql('select pg_stat_clear_snapshot()');
    if ((await database.sql(BLOCKED)).length >= count) return;
    await delay(10);
  }
};
const put = (thread_id: string, headers = {}) => app.post('put', aPut({ thread_id }), headers);
/** Threads whose checkpoints another session has locked; `database.sql('rollback')` sets them free. */
const lockedThreads = async (count: number, headers = {}, like = '%') => {
  const threads = Array.from({ length: count }, (_, n) => `locked-${n}`);
  for (const thread_id of threads) expect((await put(thread_id, headers)).status).toBe(200);
  await database.sql('begin');
  await database.sql('select from checkpoints where thread_id like $1 for update', [like]);
  return threads;
};
const statuses = async (answers: Promise<Answer>[]) =>
  (await Promise.all(answers)).map(({ status }) => status);

describe('threads that are locked', () => {
  it.each([
    { what: 'stores', attack: (thread_id: string) => put(thread_id) },
    { what: 'deletes', attack: (thread_id: string) => app.post('delete-thread', { thread_id }) },
    {
      what: 'prunes',
      attack: (thread_id: string) => app.post('prune', { thread_ids: [thread_id], strategy: 'delete' }),
    },
  ])('hold up no other thread, with more $what than there are connections', async ({ attack }) => {
    app = await startApp({ DATABASE_POOL_MAX: '4', QUEUE_WAIT_MS: '10000' }, database);
    const threads = await lockedThreads(12);
    let isHeld = true;
    const stuck = threads.map((thread_id) =>
      attack(thread_id).finally(() => {
        expect(isHeld).toBe(false);
      }),
    );
    await blocked(1);
    const others = Array.from({ length: 12 }, (_, n) => `other-${n}`);
    for (let round = 0; round < 3; round += 1) {
      expect(await statuses(others.map((thread_id) => put(thread_id)))).toEqual(Array(12).fill(200));
      const reads = others.map((thread_id) => app.post('get-tuple', { thread_id }));
      expect(await statuses(reads)).toEqual(Array(12).fill(200));
      const writes = others.map((thread_id) =>
        app.post('put-writes', aPutWrites({ thread_id, writes: [aWrite({ task_id: `${round}` })] })),
      );
      expect(await statuses(writes)).toEqual(Array(12).fill(204));
    }
    isHeld = false;
    await database.sql('rollback');
    for (const status of await statuses(stuck)) expect([200, 204]).toContain(status);
  });

  it.each(['true', 'false'])(
    'and a table that is, as while it gets an index, hold up no reads, FAST_PATH=%s',
    async (FAST_PATH) => {
      app = await startApp({ DATABASE_POOL_MAX: '4', FAST_PATH }, database);
      const threads = Array.from({ length: 24 }, (_, n) => `thread-${n}`);
      await put('other');
      await database.sql('begin');
      await database.sql('lock table checkpoint_writes in share mode');
      let isHeld = true;
      const stuck = threads.map((thread_id) =>
        app.post('put-writes', aPutWrites({ thread_id, writes: [aWrite()] })).finally(() => {
          expect(isHeld).toBe(false);
        }),
      );
      await blocked(1);
      for (let round = 0; round < 4; round += 1) {
        expect((await app.post('get-tuple', { thread_id: 'other' })).status).toBe(200);
        expect((await put('other')).status).toBe(200);
      }
      isHeld = false;
      await database.sql('rollback');
      expect(await statuses(stuck)).toEqual(Array(24).fill(204));
    },
  );

  it('get 503 after STATEMENT_TIMEOUT_MS, however often they were sent again', async () => {
    app = await startApp({ STATEMENT_TIMEOUT_MS: '1500' }, database);
    const [thread_id = ''] = await lockedThreads(1);
    const answers = await Promise.all([put(thread_id), app.post('delete-thread', { thread_id })]);
    for (const answer of answers) {
      expect(answer).toMatchObject({ status: 503, json: { type: '/problems/database-unavailable' } });
      expect(answer.json.detail).toMatch(/locked for over 1500 ms|took over 1500 ms/);
    }
    await database.sql('rollback');
    expect((await put(thread_id)).status).toBe(200);
  });

  it('keep the order of their stores', async () => {
    app = await startApp({}, database);
    const [thread_id = ''] = await lockedThreads(1);
    const stores: Promise<Answer>[] = [];
    for (let n = 1; n <= 5; n += 1) {
      stores.push(app.post('put', aPut({ thread_id, metadata: { n } })));
      await delay(30);
    }
    await delay(1500);
    await database.sql('rollback');
    expect(await statuses(stores)).toEqual(Array(5).fill(200));
    expect((await app.post('get-tuple', { thread_id })).json.metadata).toEqual({ n: 5 });
  });
});

describe('another tenant', () => {
  const headers: Record<'many' | 'few', object> = { many: {}, few: {} };
  const start = async (environment: Record<string, string> = {}) => {
    app = await startApp({ AUTH_MODE: 'keys', DATABASE_POOL_MAX: '4', ...environment }, database);
    for (const tenant of ['many', 'few'] as const) {
      headers[tenant] = { 'x-agent-api-key': await aKey(database, { tenant, scopes: ['write', 'read'] }) };
    }
  };
  /** What the stores of a tenant get, that are sent without a pause while the work is under way. */
  const during = async (tenant: 'many' | 'few', work: () => Promise<unknown>) => {
    let isOver = false;
    const seen: number[] = [];
    const agents = Array.from({ length: 8 }, async (_, n) => {
      while (!isOver) seen.push((await put(`${tenant}-${n}`, headers[tenant])).status);
    });
    const result = await work();
    isOver = true;
    await Promise.all(agents);
    expect(seen.length).toBeGreaterThan(8);
    expect(new Set(seen)).toEqual(new Set([200]));
    return result;
  };

  it('is refused nothing when rows of one are locked for longer than a statement may take', async () => {
    await start({ STATEMENT_TIMEOUT_MS: '1500' });
    const threads = await lockedThreads(6, headers.many, '%many%');
    await during('few', async () => {
      const answers = await statuses(threads.map((thread_id) => put(thread_id, headers.many)));
      expect(answers).toEqual(Array(6).fill(503));
    });
  });

  itMerging('is refused nothing when a store of one takes longer than a statement may', async () => {
    await start({ STATEMENT_TIMEOUT_MS: '1500' });
    await database.sql(`create function slow() returns trigger language plpgsql as
      $$ begin if new.thread_id like '%slow' then perform pg_catalog.pg_sleep(60); end if; return new; end $$`);
    await database.sql(
      'create trigger slow before insert on checkpoints for each row execute function slow()',
    );
    await during('few', async () => {
      expect(await statuses([put('slow', headers.many), put('slow', headers.many)])).toEqual([503, 503]);
    });
  });

  itMerging('is refused nothing when Postgres refuses what one stores', async () => {
    await start();
    await database.sql(`alter table checkpoints add constraint not_this check (thread_id not like '%bad%')`);
    await during('few', async () => {
      for (let round = 0; round < 20; round += 1) {
        const answers = [0, 1, 2].map((n) => put(`bad-${n}`, headers.many));
        expect(await statuses(answers)).toEqual([500, 500, 500]);
      }
    });
    expect((await put('good', headers.many)).status).toBe(200);
  });
});

describe('what one statement asks too much', () => {
  const raise = async (code: string, message = 'raised') => {
    await database.sql(`create or replace function raise() returns trigger language plpgsql as
      $$ begin
           if new.thread_id = 'greedy' then raise exception '${message}' using errcode = '${code}'; end if;
           return new;
         end $$`);
    await database.sql(
      'create or replace trigger raise before insert on checkpoints for each row execute function raise()',
    );
  };

  it.each([
    { code: '53200', message: 'out of shared memory', status: 503, type: '/problems/database-unavailable' },
    {
      code: 'XX000',
      message: 'invalid memory alloc request size 1073741824',
      status: 422,
      type: '/problems/statement-too-large',
    },
    { code: '0A000', message: 'feature not supported', status: 500, type: 'about:blank' },
  ])('is answered at once, and is no outage: $code $message', async ({ code, message, status, type }) => {
    app = await startApp({ OUTAGE_WAIT_MS: '600000' }, database);
    await raise(code, message);
    expect(await put('greedy')).toMatchObject({ status, json: { type } });
    expect((await put('modest')).status).toBe(200);
    const metrics = (await app.get('/metrics')).text;
    expect(metrics).not.toMatch(/checkpoint_backend_database_retries_total\{[^}]*\} [1-9]/);
  });

  it.each(['53100', '53300'])('is told from a server that has no room: %s waits', async (code) => {
    app = await startApp({ OUTAGE_WAIT_MS: '20000' }, database);
    await raise(code);
    const answer = put('greedy');
    await delay(500);
    await database.sql('drop trigger raise on checkpoints');
    expect((await answer).status).toBe(200);
  });

  const pids = async () => {
    await database.sql('select pg_stat_clear_snapshot()');
    const rows = await database.sql<{ pid: number }>(
      `select pid from pg_stat_activity where datname = current_database() and application_name = 'checkpoint-backend'`,
    );
    return rows.map(({ pid }) => pid);
  };

  it('closes no connection when Postgres refuses it', async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1' }, database);
    await raise('23514');
    await put(aThread());
    const before = await pids();
    for (let n = 0; n < 5; n += 1) expect((await put('greedy')).status).toBe(500);
    expect((await put(aThread())).status).toBe(200);
    expect(await pids()).toEqual(before);
  });

  it('closes no connection when this service refuses the answer in the middle of a transaction', async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1', TUPLE_LIMIT_BYTES: '2000' }, database);
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id, checkpoint_id: '1' }));
    await app.post('put', aPut({ thread_id, checkpoint_id: '2', parent_checkpoint_id: '1' }));
    const writes = [aWrite({ channel: 'a', blob: 'x'.repeat(4000) })];
    await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: '1', writes }));
    const before = await pids();
    for (let n = 0; n < 5; n += 1) {
      expect((await app.post('delta-channel-history', { thread_id, channels: ['a'] })).status).toBe(413);
    }
    expect((await put(aThread())).status).toBe(200);
    expect(await pids()).toEqual(before);
  });
});
