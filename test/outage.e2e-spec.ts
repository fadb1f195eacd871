import { setTimeout as delay } from 'node:timers/promises';
import { type TestApp, itMerging, startApp } from './support/app.js';
import { type TestDatabase, createDatabase } from './support/database.js';
import { aPut, aThread } from './support/builders.js';
import { Network } from './support/network.js';

describe('when the database goes away', () => {
  let database: TestDatabase;
  let network: Network;
  let app: TestApp;

  const start = async (environment: Record<string, string>) => {
    database = await createDatabase();
    const url = new URL(database.url);
    network = await Network.open(Number(url.port || 5432), url.hostname);
    url.hostname = '127.0.0.1';
    url.port = String(network.port);
    app = await startApp({ DATABASE_URL: url.href, ...environment }, database);
  };
  const shut = () => {
    network.mode = 'resetting';
    network.reset();
  };
  const reopen = () => {
    network.mode = 'open';
  };
  const ours = `from pg_stat_activity where datname = current_database() and application_name = 'checkpoint-backend'`;
  /** Until so many statements of the service wait for a lock. */
  const untilBlocked = async (count: number) => {
    for (;;) {
      await database.sql('select pg_stat_clear_snapshot()');
      if ((await database.sql(`select ${ours} and wait_event_type = 'Lock'`)).length === count) return;
      await delay(20);
    }
  };
  afterEach(async () => {
    await app.close();
    network.close();
    await database.drop();
  });

  it('requests wait through a short outage, and none is lost', async () => {
    await start({ OUTAGE_WAIT_MS: '20000' });
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id, checkpoint_id: '0' }));
    shut();
    const waiting = Array.from({ length: 30 }, (_, n) =>
      app.post('put', aPut({ thread_id, checkpoint_id: `${n + 1}` })),
    );
    expect(await app.get('/health/ready')).toMatchObject({
      status: 503,
      json: { detail: expect.stringMatching(/cannot be reached/) },
    });
    expect((await app.get('/health/live')).status).toBe(200);
    reopen();
    expect((await Promise.all(waiting)).map((answer) => answer.status)).toEqual(Array(30).fill(200));
    expect((await app.post('list', { thread_id })).json).toHaveLength(31);
  });

  it('a longer one ends in 503 with Retry-After, and afterwards all is as before', async () => {
    await start({ OUTAGE_WAIT_MS: '300' });
    shut();
    const answer = await app.post('put', aPut());
    expect(answer).toMatchObject({
      status: 503,
      type: 'application/problem+json; charset=utf-8',
      json: { type: '/problems/database-unavailable', detail: 'The database cannot be reached' },
    });
    expect(answer.headers['retry-after']).toBe('1');
    reopen();
    expect((await app.post('put', aPut())).status).toBe(200);
  });

  it('backends that are terminated cost nobody anything', async () => {
    await start({ OUTAGE_WAIT_MS: '20000', DATABASE_POOL_MAX: '4' });
    const thread_id = aThread();
    const load = Array.from({ length: 8 }, async (_, agent) => {
      for (let n = 0; n < 20; n += 1) {
        const { status } = await app.post('put', aPut({ thread_id, checkpoint_id: `${agent}-${n}` }));
        expect(status).toBe(200);
      }
    });
    for (let n = 0; n < 5; n += 1) {
      await database.sql(`select pg_terminate_backend(pid) ${ours}`);
    }
    await Promise.all(load);
    expect((await app.post('list', { thread_id, limit: 1000 })).json).toHaveLength(160);
  });

  it('connections that go silent are found out, also those that nobody uses', async () => {
    await start({ OUTAGE_WAIT_MS: '30000', DATABASE_POOL_MAX: '4' });
    const thread_id = aThread();
    // Each has a connection of its own, since none goes on.
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const lists = [0, 1, 2, 3].map(() => app.post('list', { thread_id }));
    await untilBlocked(4);
    await database.sql('commit');
    await Promise.all(lists);
    network.loseConnections();
    expect(network.silent).toBe(4);
    const answer = app.post('put', aPut({ thread_id }));
    while (network.silent === 4) await delay(20);
    // What is found out of one holds for the others, each of which would take seconds by itself.
    await delay(1000);
    expect(network.silent).toBe(0);
    expect((await answer).status).toBe(200);
  });

  it('what waits while a silent network is looked into waits for its end', async () => {
    await start({ OUTAGE_WAIT_MS: '30000', QUEUE_WAIT_MS: '4000', DATABASE_POOL_MAX: '1' });
    const thread_id = aThread();
    expect((await app.post('put', aPut({ thread_id }))).status).toBe(200);
    network.mode = 'silent';
    network.loseConnections();
    const answers = [0, 1, 2].map(() => app.post('list', { thread_id }));
    await delay(12_000); // until it is known to be an outage
    network.mode = 'open';
    for (const answer of answers) expect((await answer).status).toBe(200);
  });

  /** From now on a store of that thread takes so many seconds, with nothing locked. */
  const delayStoresOf = async (thread: string, seconds: number) => {
    await database.sql(`create or replace function slow() returns trigger language plpgsql as
      $$ begin
           if new.thread_id like '%${thread}' then perform pg_catalog.pg_sleep(${seconds}); end if;
           return new;
         end $$`);
    await database.sql(
      'create or replace trigger slow before insert on checkpoints for each row execute function slow()',
    );
  };
  const sleepers = () => database.sql<{ pid: number }>(`select pid ${ours} and wait_event = 'PgSleep'`);
  const untilAsleep = async () => {
    for (;;) {
      await database.sql('select pg_stat_clear_snapshot()');
      const [sleeper] = await sleepers();
      if (sleeper !== undefined) return sleeper;
      await delay(20);
    }
  };

  it.each(['on', 'off'])(
    'a statement that the server is at may be silent for as long as it takes, with track_activities %s',
    async (trackActivities) => {
      await start({ DATABASE_POOL_MAX: '2' });
      await database.sql(
        `do $$ begin
           execute format('alter database %I set track_activities = ${trackActivities}', current_database());
         end $$`,
      );
      await database.sql(`select pg_terminate_backend(pid) ${ours}`);
      await delayStoresOf('slow', 12);
      const answer = app.post('put', aPut({ thread_id: 'slow' }));
      const before = await untilAsleep();
      await delay(9000); // longer than a silence is believed, twice
      await database.sql('select pg_stat_clear_snapshot()');
      expect(await sleepers()).toEqual([before]);
      expect((await answer).status).toBe(200);
    },
  );

  it('time is told by a clock that nobody sets back', async () => {
    await start({ OUTAGE_WAIT_MS: '2000', QUEUE_WAIT_MS: '500', DATABASE_POOL_MAX: '1' });
    expect((await app.post('put', aPut({ thread_id: 'a' }))).status).toBe(200);
    const { now } = Date;
    shut();
    const [first, second] = [app.post('put', aPut()), app.post('list', {})];
    await delay(200);
    Date.now = () => now() - 3_600_000;
    try {
      for (const answer of await Promise.all([first, second])) {
        expect(answer).toMatchObject({ status: 503, json: { type: '/problems/database-unavailable' } });
      }
      reopen();
      // Connections that go silent are found out, too.
      expect((await app.post('put', aPut({ thread_id: 'a' }))).status).toBe(200);
      network.loseConnections();
      const again = app.post('put', aPut({ thread_id: 'a' })).then(({ status }) => status);
      while (network.silent > 0) await delay(20);
      expect([200, 503]).toContain(await again);
    } finally {
      Date.now = now;
    }
  });

  // A pooler keeps the number of the server's process to itself.
  const itDirectly = process.env.TEST_POOLER_URL === undefined ? it : it.skip;
  itDirectly('what a lost connection left running is ended before it is sent again', async () => {
    await start({ OUTAGE_WAIT_MS: '20000' });
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id }));
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answer = app.post('put', aPut({ thread_id }));
    await untilBlocked(1);
    const [before] = await database.sql<{ pid: number }>(`select pid ${ours} and wait_event_type = 'Lock'`);
    let pids: number[] = [];
    // The server does not hear of it: its process goes on waiting for the lock.
    network.loseConnections();
    network.dropNearEnds();
    for (const end = Date.now() + 20_000; Date.now() < end;) {
      await database.sql('select pg_stat_clear_snapshot()');
      const blocked = await database.sql<{ pid: number }>(`select pid ${ours} and wait_event_type = 'Lock'`);
      pids = blocked.map(({ pid }) => pid);
      if (pids.length === 1 && pids[0] !== before?.pid) break;
      await delay(20);
    }
    expect(pids).toEqual([expect.any(Number)]);
    expect(pids).not.toEqual([before?.pid]);
    await database.sql('commit');
    expect((await answer).status).toBe(200);
  });

  itDirectly.each(['reset', 'silent'])(
    'a store that was given up, its connection %s, is not carried out after what came then',
    async (how) => {
      await start({ OUTAGE_WAIT_MS: '100', DATABASE_POOL_MAX: '3' });
      expect((await app.post('put', aPut({ thread_id: 'other' }))).status).toBe(200);
      await delayStoresOf('slow', 20);
      const given = app.post('put', aPut({ thread_id: 'slow' }));
      await untilAsleep();
      await delay(200); // for longer than it may be sent again
      // The server does not hear of it.
      network.loseConnections();
      if (how === 'reset') network.dropNearEnds();
      expect((await given).status).toBe(503);
      await database.sql('drop trigger slow on checkpoints');
      let deleted = await app.post('delete-thread', { thread_id: 'slow' });
      while (deleted.status === 503) deleted = await app.post('delete-thread', { thread_id: 'slow' });
      expect(deleted.status).toBe(204);
      await database.sql('select pg_stat_clear_snapshot()');
      expect(await sleepers()).toEqual([]);
      expect(await database.sql(`select from checkpoints where thread_id = 'slow'`)).toEqual([]);
    },
  );

  itDirectly('of many lost connections each one is ended, and nobody else', async () => {
    await start({ OUTAGE_WAIT_MS: '20000' });
    await app.post('put', aPut({ thread_id: 'source' }));
    await delayStoresOf('slow', 60);
    const copy = (n: number) =>
      app.post('copy-thread', { source_thread_id: 'source', target_thread_id: `${n}-slow` });
    const copies = [0, 1, 2, 3, 4, 5].map(copy);
    while ((await sleepers()).length < copies.length) {
      await delay(20);
      await database.sql('select pg_stat_clear_snapshot()');
    }
    // A session of the same role that is none of the service's: it would not be there any more.
    const bystander = await database.sql('select pg_backend_pid()');
    network.loseConnections();
    network.dropNearEnds();
    await database.sql('drop trigger slow on checkpoints');
    expect((await Promise.all(copies)).map(({ status }) => status)).toEqual(Array(6).fill(204));
    await database.sql('select pg_stat_clear_snapshot()');
    expect(await sleepers()).toEqual([]);
    expect(await database.sql('select pg_backend_pid()')).toEqual(bystander);
  });

  it('what waited through an outage has its turn after it', async () => {
    await start({ DATABASE_POOL_MAX: '1', QUEUE_WAIT_MS: '1500', OUTAGE_WAIT_MS: '20000' });
    await database.sql(
      `create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.1); return null; end'`,
    );
    await database.sql(
      `create trigger slow before delete on checkpoints for each statement execute function slow()`,
    );
    shut();
    const waiting = Array.from({ length: 8 }, () => app.post('delete-thread', { thread_id: aThread() }));
    await delay(2000);
    reopen();
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual(Array(8).fill(204));
  });

  itMerging('writes wait for a read-only server, and reads go on', async () => {
    await start({
      ...{ DATABASE_POOL_MAX: '3', QUEUE_WAIT_MS: '400', OUTAGE_WAIT_MS: '20000' },
      FAST_PATH: 'true',
    });
    const readOnly = async (onOrOff: string) => {
      await database.sql(
        `do $$ begin
           execute format('alter database %I set default_transaction_read_only = ${onOrOff}', current_database());
         end $$`,
      );
      await database.sql(`select pg_terminate_backend(pid) ${ours}`);
    };
    await readOnly('on');
    const over = new AbortController();
    // Merged statements hold two connections, further writes wait in the queue, the third one is left to the reads.
    const some = (ids: string[]) => ids.map((thread_id) => app.post('put', aPut({ thread_id })));
    const writes = some(['a', 'b', 'c']);
    await delay(100);
    writes.push(...some(['d', 'e', 'f']));
    const statuses: number[] = [];
    const reads = (async () => {
      while (!over.signal.aborted) statuses.push((await app.post('get-tuple', { thread_id: 't' })).status);
    })();
    await delay(2000);
    const readsDuring = statuses.length;
    await database.sql('set default_transaction_read_only = off');
    await readOnly('off');
    expect((await Promise.all(writes)).map(({ status }) => status)).toEqual(Array(6).fill(200));
    over.abort();
    await reads;
    expect(new Set(statuses)).toEqual(new Set([200]));
    expect(readsDuring).toBeGreaterThan(5);
  });

  it('a statement that an administrator cancels is sent again', async () => {
    await start({});
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answer = app.post('put', aPut());
    await untilBlocked(1);
    await database.sql(`select pg_cancel_backend(pid) ${ours}`);
    await database.sql('commit');
    expect((await answer).status).toBe(200);
  });

  it('a transaction is sent again as a whole', async () => {
    await start({});
    const thread_id = aThread();
    for (const n of ['1', '2', '3']) await app.post('put', aPut({ thread_id, checkpoint_id: n }));
    // It is blocked at its last statement, after it has deleted checkpoints.
    const blob = { channel: 'c', version: '1', type: 't', blob: '' };
    await app.post('put', aPut({ thread_id, checkpoint_id: '0', blobs: [blob] }));
    await database.sql('begin');
    await database.sql('select from checkpoint_blobs for update');
    const answer = app.post('prune', { thread_ids: [thread_id], strategy: 'keep_latest' });
    await untilBlocked(1);
    await database.sql(`select pg_terminate_backend(pid) ${ours}`);
    await database.sql('commit');
    expect((await answer).status).toBe(204);
    expect((await app.post('list', { thread_id })).json).toMatchObject([{ checkpoint_id: '3' }]);
    expect(await database.sql('select from checkpoint_blobs')).toEqual([]);
  });

  it('a full queue, and one that takes too long, get 503 of their own type', async () => {
    await start({
      DATABASE_POOL_MAX: '1',
      QUEUE_MAX: '1',
      QUEUE_WAIT_MS: '300',
      STATEMENT_TIMEOUT_MS: '60000',
    });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answers = ['0', '1', '2'].map((thread_id) => app.post('put', aPut({ thread_id })));
    const refused = await Promise.race(answers);
    expect(refused).toMatchObject({ status: 503, json: { type: '/problems/queue-full' } });
    // The second one had its place in the queue, and waited in vain.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await database.sql('rollback');
    const outcomes = (await Promise.all(answers)).map(({ status, json }) =>
      status === 200 ? 'stored' : (json as { type: string }).type,
    );
    expect(outcomes.sort()).toEqual(['/problems/queue-full', '/problems/queue-timeout', 'stored']);
  });

  it('a statement that takes too long is ended', async () => {
    await start({ STATEMENT_TIMEOUT_MS: '200' });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    expect(await app.post('get-tuple', { thread_id: 't' })).toMatchObject({
      status: 503,
      json: { type: '/problems/database-unavailable', detail: 'A statement took over 200 ms' },
    });
    await database.sql('rollback');
  });

  it('a fault of ours gets 500, and nothing of its text leaves the process', async () => {
    await start({});
    await database.sql('drop table checkpoint_blobs');
    const answer = await app.post('get-tuple', { thread_id: 't' });
    expect([answer.status, answer.json]).toEqual([
      500,
      { type: 'about:blank', status: 500, title: 'Internal Server Error' },
    ]);
  });
});
