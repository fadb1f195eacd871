import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { HELD_UP } from './support/gate.js';

describe('prune and delete-for-runs', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ DATABASE_POOL_MAX: '20' });
  });
  afterAll(() => app.close());

  const ids = async (thread_id: string, checkpoint_ns: string | null = null) =>
    ((await app.post('list', { thread_id, checkpoint_ns })).json as { checkpoint_id: string }[]).map(
      (item) => item.checkpoint_id,
    );
  const blobs = async (thread_id: string) =>
    (
      await app.database.sql<{ name: string }>(
        `select checkpoint_ns || '/' || channel || '/' || version as name from checkpoint_blobs
          where thread_id = $1 order by 1`,
        [thread_id],
      )
    ).map((row) => row.name);
  const writes = async (thread_id: string) =>
    (
      await app.database.sql<{ name: string }>(
        `select checkpoint_ns || '/' || checkpoint_id as name from checkpoint_writes where thread_id = $1 order by 1`,
        [thread_id],
      )
    ).map((row) => row.name);
  const aBlob = (channel: string, version: string, type = 't') => ({
    channel,
    version,
    type,
    blob: base64(version),
  });

  /** A chain of checkpoints 1 to n; each writes channel `a` anew and keeps `b` of the first. */
  async function aChain(
    thread_id: string,
    n: number,
    fields: (at: number) => Record<string, unknown> = () => ({}),
  ) {
    for (let at = 1; at <= n; at += 1) {
      const version = String(at);
      await app.post(
        'put',
        aPut({
          thread_id,
          checkpoint_id: version,
          parent_checkpoint_id: at === 1 ? null : String(at - 1),
          checkpoint: { v: 4, channel_versions: { a: version, b: '1' } },
          blobs: [aBlob('a', version), ...(at === 1 ? [aBlob('b', '1')] : [])],
          ...fields(at),
        }),
      );
      await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: version }));
    }
  }
  const prune = async (thread_ids: string[], strategy = 'keep_latest') => {
    expect((await app.post('prune', { thread_ids, strategy })).status).toBe(204);
  };

  it('keep_latest keeps the newest of each namespace, byte by byte, with its writes and blobs', async () => {
    const [thread_id, other] = [aThread(), aThread()];
    await aChain(thread_id, 5);
    await aChain(other, 2);
    for (const checkpoint_id of ['a', 'B']) {
      await app.post('put', aPut({ thread_id, checkpoint_ns: 'sub:1', checkpoint_id }));
    }
    // The write of a checkpoint that is still on its way
    await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: '6' }));
    for (let time = 0; time < 2; time += 1) {
      await prune([thread_id]);
      expect(await ids(thread_id, '')).toEqual(['5']);
      expect(await ids(thread_id, 'sub:1')).toEqual(['a']);
      expect(await blobs(thread_id)).toEqual(['/a/5', '/b/1']);
      expect(await writes(thread_id)).toEqual(['/5', '/6']);
    }
    const tuple = (await app.post('get-tuple', { thread_id })).json;
    expect(tuple).toMatchObject({ checkpoint_id: '5', parent_checkpoint_id: null });
    expect(tuple.blobs).toHaveLength(2);
    expect(await ids(other)).toHaveLength(2);
  });

  it('keep_latest keeps nothing of a subgraph call that is over, and all of one that is not', async () => {
    const thread_id = aThread();
    await aChain(thread_id, 3);
    const aCall = async (
      checkpoint_ns: string,
      root: string,
      metadata: object = { parents: { '': root } },
    ) => {
      for (const checkpoint_id of ['1', '2']) {
        await app.post(
          'put',
          aPut({
            ...{ thread_id, checkpoint_ns, checkpoint_id, metadata },
            checkpoint: { v: 4, channel_versions: { a: checkpoint_id } },
            blobs: [aBlob('a', checkpoint_id)],
          }),
        );
      }
      await app.post('put-writes', aPutWrites({ thread_id, checkpoint_ns, checkpoint_id: '2' }));
    };
    await aCall('node:over', '2');
    await aCall('node:over|inner:task', '2', { parents: { '': '2', 'node:over': '1' } });
    await aCall('node:current', '3');
    await aCall('node:early', '4'); // committed before the checkpoint that it was begun from
    await aCall('lasting', '1');
    await aCall('node:unknown', '2', {});
    await prune([thread_id]);
    const left = await app.database.sql<{ at: string }>(
      `select checkpoint_ns || '/' || checkpoint_id as at from checkpoints where thread_id = $1 order by 1`,
      [thread_id],
    );
    expect(left.map(({ at }) => at)).toEqual([
      '/3',
      'lasting/2',
      'node:current/2',
      'node:early/2',
      'node:unknown/2',
    ]);
    const namespaces = async (table: string) =>
      (
        await app.database.sql<{ ns: string }>(
          `select distinct checkpoint_ns as ns from ${table} where thread_id = $1 order by 1`,
          [thread_id],
        )
      ).map(({ ns }) => ns);
    const all = ['', 'lasting', 'node:current', 'node:early', 'node:unknown'];
    expect(await namespaces('checkpoint_blobs')).toEqual(all);
    expect(await namespaces('checkpoint_writes')).toEqual(all);
  });

  it('delete removes the threads whole, and no other', async () => {
    const threads = [aThread(), aThread(), aThread()];
    for (const thread_id of threads) await aChain(thread_id, 2);
    await prune(threads.slice(0, 2), 'delete');
    expect(await Promise.all(threads.map((thread_id) => ids(thread_id)))).toEqual([[], [], ['2', '1']]);
    expect(await writes(threads[0] ?? '')).toEqual([]);
    expect(await blobs(threads[1] ?? '')).toEqual([]);
  });

  it('keeps the ancestors of a delta channel up to the one with its seed, with their writes', async () => {
    const thread_id = aThread();
    // 2 holds the snapshot of `log`, 4 has an inline value of `count`; 6 is the newest. 3b is a fork.
    await aChain(thread_id, 6, (at) => ({
      metadata: at === 6 ? { counters_since_delta_snapshot: { log: 4, count: 2 } } : {},
      checkpoint: {
        v: 4,
        channel_values: at === 2 ? { log: true } : at === 4 ? { count: 7 } : {},
        channel_versions: { a: String(at), log: at === 2 ? '2' : 'x' },
      },
      blobs: [aBlob('a', String(at)), ...(at === 2 ? [aBlob('log', '2', 'snapshot')] : [])],
    }));
    await app.post('put', aPut({ thread_id, checkpoint_id: '3b', parent_checkpoint_id: '2' }));
    const history = () =>
      app
        .post('delta-channel-history', { thread_id, channels: ['log', 'count', 'messages'] })
        .then(({ json }) => json);
    const before = await history();
    expect(before.log.seed).toEqual({ type: 'snapshot', blob: base64('2') });
    await prune([thread_id]);
    expect(await ids(thread_id)).toEqual(['6', '5', '4', '3', '2']);
    expect(await writes(thread_id)).toEqual(['/2', '/3', '/4', '/5', '/6']);
    const after = await history();
    expect(after.log).toEqual(before.log);
    expect(after.count).toEqual(before.count);
  });

  it('needs no ancestor for a delta channel whose snapshot the newest checkpoint holds itself', async () => {
    const thread_id = aThread();
    await aChain(thread_id, 3, (at) => ({
      metadata: { counters_since_delta_snapshot: { a: 0 } },
      checkpoint: { v: 4, channel_values: { a: true }, channel_versions: { a: String(at) } },
    }));
    await prune([thread_id]);
    expect(await ids(thread_id)).toEqual(['3']);
  });

  it('keeps the pending sends of a checkpoint that predates version 4', async () => {
    const thread_id = aThread();
    await aChain(thread_id, 3, () => ({ checkpoint: { v: 3, channel_versions: {} } }));
    const sends = [aWrite({ idx: 5, channel: '__pregel_tasks' })];
    await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: '2', writes: sends }));
    const read = () =>
      app.post('get-tuple', { thread_id, include: ['pending_sends'] }).then(({ json }) => json);
    const before = await read();
    await prune([thread_id]);
    expect(await ids(thread_id)).toEqual(['3', '2']);
    expect(await read()).toEqual(before);
  });

  it('ends also when the parents go round in a circle', async () => {
    const thread_id = aThread();
    const metadata = { counters_since_delta_snapshot: { log: 1 } };
    for (const [checkpoint_id, parent_checkpoint_id] of [
      ['1', '2'],
      ['2', '1'],
    ]) {
      await app.post('put', aPut({ thread_id, checkpoint_id, parent_checkpoint_id, metadata }));
    }
    await prune([thread_id]);
    expect(await ids(thread_id)).toEqual(['2', '1']);
    expect((await app.post('delta-channel-history', { thread_id, channels: ['log'] })).json).toEqual({
      log: { writes: [] },
    });
  });

  describe('delete-for-runs', () => {
    const run = async (run_ids: string[]) => {
      expect((await app.post('delete-for-runs', { run_ids })).status).toBe(204);
    };

    it('removes the checkpoints of the runs, their writes, and the blobs that are needed no more', async () => {
      const [thread_id, other] = [aThread(), aThread()];
      const run_id = aThread();
      await aChain(thread_id, 4, (at) => ({ metadata: { run_id: at === 2 || at === 4 ? run_id : 'other' } }));
      await aChain(other, 2, () => ({ metadata: { run_id } }));
      for (let time = 0; time < 2; time += 1) {
        await run([aThread(), run_id]);
        expect(await ids(thread_id)).toEqual(['3', '1']);
        expect(await blobs(thread_id)).toEqual(['/a/1', '/a/3', '/b/1']);
        expect(await writes(thread_id)).toEqual(['/1', '/3']);
        expect([await ids(other), await blobs(other), await writes(other)]).toEqual([[], [], []]);
      }
    });

    it('takes nothing for a run: no id, no run_id, a number', async () => {
      const thread_id = aThread();
      await aChain(thread_id, 3, (at) => ({ metadata: at === 1 ? {} : { run_id: at === 2 ? null : 7 } }));
      await run([]);
      await run(['null']);
      expect(await ids(thread_id)).toEqual(['3', '2', '1']);
      await run(['7']);
      expect(await ids(thread_id)).toEqual(['2', '1']);
    });

    it('finds them by an index, also before the table was analysed', async () => {
      // A table of its own, which no vacuum sees, with enough rows for a scan of the table to be dearer to every version.
      await app.database.sql('begin');
      await app.database.sql('create table unanalysed (like checkpoints including all)');
      await app.database.sql(
        `insert into unanalysed (thread_id, checkpoint_id, checkpoint, metadata)
         select 'filler', n::text, '{}', jsonb_build_object('run_id', n) from generate_series(1, 20000) as n`,
      );
      const plan = await app.database.sql<{ 'QUERY PLAN': string }>(
        `explain delete from unanalysed
          where hashtextextended(metadata ->> 'run_id', 0) = any(array(select hashtextextended(unnest('{a,b}'::text[]), 0)))
            and metadata ->> 'run_id' = any('{a,b}')`,
      );
      await app.database.sql('rollback');
      expect(plan.map((row) => row['QUERY PLAN']).join('\n')).toMatch(/Index Cond: .*hashtextextended/);
    });

    it('can be migrated and used with a run_id that is longer than an index entry', async () => {
      const thread_id = aThread();
      const run_id = Array.from({ length: 5000 }, () => Math.random().toString(36).slice(2)).join('');
      await aChain(thread_id, 1, () => ({ metadata: { run_id } }));
      await run([run_id]);
      expect(await ids(thread_id)).toEqual([]);
    });
  });

  it.each([
    {
      operation: 'prune',
      body: (thread_id: string) => ({ thread_ids: [thread_id], strategy: 'keep_latest' }),
      left: { ids: ['2'], blobs: ['/a/2', '/b/1'] },
    },
    {
      operation: 'delete-for-runs',
      body: (thread_id: string) => ({ run_ids: [thread_id] }),
      left: { ids: ['2', '0'], blobs: ['/a/1', '/a/2', '/b/1', '/z/1'] },
    },
  ])(
    '$operation waits for a put that needs a blob which was about to go',
    async ({ operation, body, left }) => {
      const thread_id = aThread();
      await aChain(thread_id, 2, (at) => ({ metadata: at === 1 ? { run_id: thread_id } : {} }));
      const { sql } = app.database;
      const count = async (from: string) => (await sql(`select 1 ${from}`)).length;
      const until = async (done: () => Promise<boolean>) => {
        while (!(await done())) await new Promise((resolve) => setTimeout(resolve, 10));
      };
      // Holds the put up at its second blob, when it has come upon the first. Not by a lock, which it would wait for in pieces.
      await sql("create sequence gate; select setval('gate', 2)");
      await sql(`create function wait_for_gate() returns trigger language plpgsql as
        $$ begin
             while (select last_value from public.gate) = 2 loop perform pg_catalog.pg_sleep(0.01); end loop;
             return new;
           end $$`);
      await sql(`create trigger gate before insert on checkpoint_blobs for each row when (new.channel = 'z')
                 execute function wait_for_gate()`);
      const fork = { checkpoint_id: '0', checkpoint: { v: 4, channel_versions: { a: '1', z: '1' } } };
      const put = app.post('put', aPut({ thread_id, ...fork, blobs: [aBlob('a', '1'), aBlob('z', '1')] }));
      await until(async () => (await count(HELD_UP)) === 1);
      let cleaned = false;
      const cleaning = app.post(operation, body(thread_id)).then((answer) => {
        cleaned = true;
        return answer.status;
      });
      await until(async () => cleaned || (await count('from pg_locks where not granted')) === 1);
      await sql(`select setval('gate', 1)`);
      expect([(await put).status, await cleaning]).toEqual([200, 204]);
      expect({ ids: await ids(thread_id), blobs: await blobs(thread_id) }).toEqual(left);
      await sql('drop trigger gate on checkpoint_blobs; drop function wait_for_gate; drop sequence gate');
    },
  );

  it('never take a blob that a checkpoint needs, while puts go on, and leave none that nobody needs', async () => {
    const threads = [aThread(), aThread()];
    const shared = ['1', '2', '3'];
    let going = true;
    const agents = threads.flatMap((thread_id) =>
      Array.from({ length: 4 }, async (_, agent) => {
        for (let n = 0; n < 60; n += 1) {
          const version = shared[(n + agent) % 3] ?? '1';
          const put = aPut({
            thread_id,
            // Ids fall, so that what is put last is what keep_latest takes first.
            checkpoint_id: `${agent}-${String(999 - n)}`,
            checkpoint: { v: 4, channel_versions: { a: version } },
            metadata: { run_id: `run-${n % 2}` },
            blobs: [aBlob('a', version)],
          });
          expect((await app.post('put', put)).status).toBe(200);
        }
      }),
    );
    const cleaners = [
      { operation: 'prune', body: { thread_ids: threads, strategy: 'keep_latest' } },
      { operation: 'prune', body: { thread_ids: threads.toReversed(), strategy: 'keep_latest' } },
      { operation: 'delete-for-runs', body: { run_ids: ['run-1'] } },
    ].map(async ({ operation, body }) => {
      while (going) expect((await app.post(operation, body)).status).toBe(204);
    });
    await Promise.all(agents);
    going = false;
    await Promise.all(cleaners);
    for (const thread_id of threads) {
      const broken = await app.database.sql(
        `select c.checkpoint_id from checkpoints c
          where thread_id = $1
            and not exists (select 1 from checkpoint_blobs b
                             where b.thread_id = $1 and b.channel = 'a'
                               and b.version = c.checkpoint -> 'channel_versions' ->> 'a')`,
        [thread_id],
      );
      expect(broken).toEqual([]);
      await prune([thread_id]);
      expect(await blobs(thread_id)).toHaveLength(1);
    }
  });

  it.each([
    ['prune', { thread_ids: 'x', strategy: 'delete' }, '#/thread_ids', 'must be an array'],
    ['prune', { thread_ids: ['a', ''], strategy: 'delete' }, '#/thread_ids', 'item 1 must not be empty'],
    ['prune', { thread_ids: ['a', null], strategy: 'delete' }, '#/thread_ids', 'item 1 must be a string'],
    ['prune', { thread_ids: [], strategy: 'all' }, '#/strategy', 'must be one of keep_latest, delete'],
    ['prune', { thread_ids: [] }, '#/strategy', 'must be one of keep_latest, delete'],
    ['delete-for-runs', {}, '#/run_ids', 'is missing'],
    ['delta-channel-history', { thread_id: 't', channels: [5] }, '#/channels', 'item 0 must be a string'],
  ])('%s refuses %j', async (operation, body, pointer, detail) => {
    expect(await app.post(operation, body)).toMatchObject({
      status: 422,
      json: { errors: [{ pointer, detail }] },
    });
  });
});
