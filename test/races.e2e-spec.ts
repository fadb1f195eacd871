import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { moveThreads } from '../src/checkpoints/sql/move-threads.js';
import { startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';

/**
 * Two requests that meet on a thread end as if one had come after the other, whatever the moment in which they meet. Every pair
 * is tried with the first one held up at each lock that it takes, and undisturbed; on two instances of the service.
 */

/** Undisturbed rounds; RACE_ROUNDS=10000 is for a change of what stores or deletes. */
const ROUNDS = Number(process.env.RACE_ROUNDS ?? 100);
const AT_ONCE = 6;
const SLOW_MS = 600_000 + 200 * ROUNDS;

/** The threads that a trial is about: `other` is copied from, `copy` copied to, `moved` is what another tenant makes of `main`. */
interface World {
  main: string;
  other: string;
  copy: string;
  moved: string;
}

let database: TestDatabase;
let apps: TestApp[];
let pool: pg.Pool;
beforeAll(async () => {
  database = await createDatabase();
  apps = await Promise.all([0, 1].map(() => startApp({ DATABASE_POOL_MAX: '24' }, database)));
  // Not through a pooler, which has too few connections for sessions that only hold locks.
  const direct = Object.assign(new URL(process.env.TEST_SERVER_URL ?? database.url), {
    pathname: new URL(database.url).pathname,
  });
  pool = new pg.Pool({ connectionString: direct.href, max: 3 * AT_ONCE });
  pool.on('error', () => undefined);
});
afterAll(async () => {
  await pool.end();
  for (const app of apps) await app.close();
  await database.drop();
});

type Post = TestApp['post'];

const blob = (channel: string, version: string, value: string) => ({
  ...{ channel, version, type: 't', blob: base64(value) },
});
const put = (
  thread_id: string,
  id: string,
  blobs: ReturnType<typeof blob>[],
  more: Record<string, unknown> = {},
) =>
  aPut({
    ...{ thread_id, checkpoint_id: id, parent_checkpoint_id: id === '1' ? null : String(Number(id) - 1) },
    checkpoint: {
      ...{ v: 4, id, channel_values: {} },
      channel_versions: Object.fromEntries(blobs.map(({ channel, version }) => [channel, version])),
    },
    ...{ blobs, metadata: {}, ...more },
  });
const putWrites = (thread_id: string, idxs: number[], value: string, upsert: boolean) =>
  aPutWrites({
    ...{ thread_id, checkpoint_id: '2', upsert },
    writes: idxs.map((idx) => aWrite({ task_id: 'k', idx, blob: base64(value) })),
  });

async function ok(answer: ReturnType<Post>): Promise<void> {
  const { status, text } = await answer;
  if (status !== 200 && status !== 204) throw new Error(`${status} ${text}`);
}

async function aWorld(): Promise<World> {
  const main = aThread();
  const [app] = apps as [TestApp];
  const other = `${main}-other`;
  await ok(
    app.post(
      'put',
      put(main, '1', [blob('a', '1', 'a1'), blob('s', '1', 's1')], { metadata: { run_id: main } }),
    ),
  );
  await ok(app.post('put', put(main, '2', [blob('a', '2', 'a2'), blob('s', '1', 's1')])));
  await ok(app.post('put-writes', putWrites(main, [0], 'first', false)));
  await ok(
    app.post('put', put(other, '2', [blob('a', '2', 'a2'), blob('s', '1', 's1'), blob('x', '2', 'x2')])),
  );
  await ok(app.post('put', put(other, '3', [blob('s', '1', 's1'), blob('y', '3', 'y3')])));
  await ok(app.post('put-writes', putWrites(other, [0, 3], 'other', false)));
  return { main, other, copy: `${main}-copy`, moved: `\u0001acme\u0001${main}` };
}

/** What may meet. */
const DEEDS: Record<string, (post: Post, world: World) => Promise<void>> = {
  put: (post, { main }) => ok(post('put', put(main, '3', [blob('b', '3', 'b3')]))),
  'put with blobs that are there': (post, { main }) =>
    ok(post('put', put(main, '4', [blob('a', '2', 'a2'), blob('s', '1', 's1'), blob('z', '4', 'z4')]))),
  'put-writes': (post, { main }) => ok(post('put-writes', putWrites(main, [0, 1, 2], 'kept', false))),
  'put-writes with upsert': (post, { main }) => ok(post('put-writes', putWrites(main, [0, 2], 'new', true))),
  'delete-thread': (post, { main }) => ok(post('delete-thread', { thread_id: main })),
  'prune keep_latest': (post, { main }) =>
    ok(post('prune', { thread_ids: [main, aThread()], strategy: 'keep_latest' })),
  'prune delete': (post, { main }) =>
    ok(post('prune', { thread_ids: [main, aThread()], strategy: 'delete' })),
  'delete-for-runs': (post, { main }) => ok(post('delete-for-runs', { run_ids: [main] })),
  'copy-thread to it': (post, { main, other }) =>
    ok(post('copy-thread', { source_thread_id: other, target_thread_id: main })),
  'copy-thread from it': (post, { main, copy }) =>
    ok(post('copy-thread', { source_thread_id: main, target_thread_id: copy })),
  'tenants move': async (_, { main }) => {
    const client = (await pool.connect()) as pg.PoolClient & pg.Client;
    try {
      const move = { from: '', to: 'acme', threads: { ids: [main] } };
      for await (const { refused } of moveThreads(client, 'public', move))
        if (refused) throw new Error(refused);
    } finally {
      client.release();
    }
  },
};
const NAMES = Object.keys(DEEDS);
const PAIRS = NAMES.flatMap((first) => NAMES.map((second) => [first, second] as const));

/** Locks of another session by which a deed is held up; `$1` is the thread. */
const ROWS = {
  checkpoints: (id: string) => `('$1', '', '${id}', null, null, '{}', '{}')`,
  checkpoint_blobs: (key: string) => `('$1', '', '${key[0]}', '${key[1]}', 't', null)`,
  checkpoint_writes: (idx: string) => `('$1', '', '2', 'k', ${idx}, 'c', 't', '', '')`,
};
const row = (table: keyof typeof ROWS, key: string, of: keyof World = 'main') => {
  const column = {
    checkpoints: 'checkpoint_id',
    checkpoint_blobs: 'channel || version',
    checkpoint_writes: 'idx',
  };
  return {
    of,
    // The row that is there; or, if none is, one that takes its place until the session ends.
    sql: `select from ${table} where thread_id = '$1' and ${column[table]} = '${key}' for update;
          insert into ${table} values ${ROWS[table](key)} on conflict do nothing`,
  };
};
const POINTS = [
  ...['1', '2', '3', '4'].map((key) => row('checkpoints', key)),
  ...['a1', 'a2', 's1', 'b3', 'z4', 'x2', 'y3'].map((key) => row('checkpoint_blobs', key)),
  ...['0', '1', '2', '3'].map((key) => row('checkpoint_writes', key)),
  ...[
    row('checkpoints', '2', 'copy'),
    row('checkpoint_blobs', 's1', 'copy'),
    row('checkpoint_writes', '0', 'copy'),
  ],
  ...[row('checkpoints', '2', 'moved'), row('checkpoint_blobs', 's1', 'moved')],
  ...(['main', 'copy', 'moved'] as const).flatMap((of) =>
    ['pg_advisory_xact_lock', 'pg_advisory_xact_lock_shared'].map((lock) => ({
      ...{ of, sql: `select ${lock}(hashtextextended('$1', 5004))` },
    })),
  ),
];

/** Holds a lock of another session while `work` runs, which is told how many wait behind it. */
async function holding(
  { of, sql }: (typeof POINTS)[number],
  world: World,
  work: (waiting: () => Promise<number>, release: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const pid = Number((await client.query('select pg_backend_pid() as pid')).rows[0].pid);
    await client.query(sql.replaceAll('$1', world[of]));
    await work(
      async () => {
        const blocked = await pool.query(
          `with recursive behind as (
             select $1::int as pid
              union
             select a.pid
               from pg_stat_activity a
               join behind on behind.pid = any(pg_blocking_pids(a.pid))
              where a.wait_event_type = 'Lock' and a.datname = current_database()
           )
           select count(*)::int - 1 as n from behind`,
          [pid],
        );
        return blocked.rows[0].n as number;
      },
      async () => {
        await client.query('rollback');
      },
    );
  } finally {
    await client.query('rollback');
    client.release();
  }
}

/** Every row of the trial's threads, under names that all trials share. */
async function rowsOf(world: World): Promise<string> {
  const { rows } = await pool.query<{ text: string }>(
    `select 'checkpoint' || to_jsonb(c)::text as text from checkpoints c where thread_id = any($1)
      union all select 'blob' || to_jsonb(b)::text from checkpoint_blobs b where thread_id = any($1)
      union all select 'write' || to_jsonb(w)::text from checkpoint_writes w where thread_id = any($1)
      order by 1`,
    [Object.values(world)],
  );
  return rows.map(({ text }) => text.replaceAll(world.main, 'main')).join('\n');
}

const run = (name: string, world: World, instance = 0) =>
  (DEEDS[name] as (typeof DEEDS)[string])((apps[instance] as TestApp).post, world);

const serialOf = new Map<string, Promise<string>>();
/** What is there when the second comes after the first. */
function serial(first: string, second: string): Promise<string> {
  const key = `${first}, ${second}`;
  const known = serialOf.get(key);
  if (known !== undefined) return known;
  const found = (async () => {
    const world = await aWorld();
    await run(first, world);
    await run(second, world);
    return rowsOf(world);
  })();
  serialOf.set(key, found);
  return found;
}

/** Null when the rows are those of one of both orders. */
async function faultOf(first: string, second: string, world: World): Promise<string | null> {
  const found = await rowsOf(world);
  const orders = [await serial(first, second), await serial(second, first)];
  return orders.includes(found) ? null : `${found}\n  is neither\n${orders.join('\n  nor\n')}`;
}

/** Does it to all items, some at once. */
async function forAll<T>(items: T[], work: (item: T, n: number) => Promise<void>): Promise<void> {
  const left = items.entries();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const [n, item] of left) await work(item, n);
    }),
  );
}

/** The point that holds a deed up, if it does. */
async function isHeldUp(name: string, point: (typeof POINTS)[number]): Promise<boolean> {
  const world = await aWorld();
  let isHeld = false;
  await holding(point, world, async (waiting, release) => {
    let isDone = false;
    const deed = run(name, world).finally(() => (isDone = true));
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- it ends meanwhile
    while (!isDone && !isHeld) isHeld = (await waiting()) > 0;
    await release();
    await deed;
  });
  return isHeld;
}

it(
  'two requests end as one after the other, with the first held up at each of its locks',
  async () => {
    const held: [string, (typeof POINTS)[number]][] = [];
    await forAll(
      NAMES.flatMap((name) => POINTS.map((point) => [name, point] as const)),
      async ([name, point]) => {
        if (await isHeldUp(name, point)) held.push([name, point]);
      },
    );
    // Each deed waits for its thread, and for some row.
    for (const name of NAMES)
      expect([name, held.filter(([deed]) => deed === name).length]).not.toEqual([name, 0]);
    const faults: string[] = [];
    const trials = held.flatMap(([first, point]) => NAMES.map((second) => ({ first, second, point })));
    await forAll(trials, async ({ first, second, point }, n) => {
      const world = await aWorld();
      await holding(point, world, async (waiting, release) => {
        const deeds = [run(first, world)];
        while ((await waiting()) === 0) await delay(2);
        let isDone = false;
        deeds.push(run(second, world, n % 2).finally(() => (isDone = true)));
        // Until it waits too, or for a moment in which it may have begun something.
        // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- it ends meanwhile
        for (let polls = 0; polls < 20 && !isDone && (await waiting()) < 2; polls += 1) await delay(5);
        await release();
        await Promise.all(deeds);
      });
      const fault = await faultOf(first, second, world);
      if (fault !== null) faults.push(`${first} × ${second}, held up by ${point.of} ${point.sql}:\n${fault}`);
    });
    console.log(`${trials.length} trials`);
    expect(faults).toEqual([]);
  },
  SLOW_MS,
);

it(
  `two requests end as one after the other, undisturbed`,
  async () => {
    let isOver = false;
    // Others, whose stores share statements with those of the trials.
    const others = Array.from({ length: 4 }, async (_, n) => {
      const thread = aThread();
      for (let at = 1; !isOver; at += 1) {
        await ok(
          (apps[n % 2] as TestApp).post('put', put(thread, String((at % 5) + 1), [blob('a', '1', 'a1')])),
        );
      }
    });
    const faults: string[] = [];
    try {
      const rounds = Array.from(
        { length: ROUNDS },
        (_, n) => PAIRS[n % PAIRS.length] as (typeof PAIRS)[number],
      );
      await forAll(rounds, async ([first, second], n) => {
        const world = await aWorld();
        await Promise.all([
          run(first, world),
          delay(Math.random() * 3).then(() => run(second, world, n % 2)),
        ]);
        const fault = await faultOf(first, second, world);
        if (fault !== null) faults.push(`${first} × ${second}:\n${fault}`);
      });
    } finally {
      isOver = true;
      await Promise.all(others);
    }
    expect(faults).toEqual([]);
  },
  SLOW_MS,
);
