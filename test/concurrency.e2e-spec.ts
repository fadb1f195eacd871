import { setTimeout as delay } from 'node:timers/promises';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

/**
 * Requests of every kind meet on the same threads. The tables have no foreign keys, so that what belongs together is a
 * matter of the statements alone; each invariant is one query, which finds what breaks it.
 */
const INVARIANTS = {
  'no checkpoint without its blobs': `
    select c.thread_id, c.checkpoint_id, v.key, v.value
      from checkpoints c
     cross join jsonb_each_text(c.checkpoint -> 'channel_versions') as v
     where not exists (select 1
                         from checkpoint_blobs b
                        where b.thread_id = c.thread_id and b.checkpoint_ns = c.checkpoint_ns
                          and b.channel = v.key and b.version = v.value)`,
  'no parent that is gone': `
    select thread_id, checkpoint_id, parent_checkpoint_id
      from checkpoints c
     where not exists (select 1
                         from checkpoints p
                        where p.thread_id = c.thread_id and p.checkpoint_ns = c.checkpoint_ns
                          and p.checkpoint_id = c.parent_checkpoint_id)
       and parent_checkpoint_id is not null`,
  'no blob without a checkpoint': `
    select thread_id, channel, version
      from checkpoint_blobs b
     where not exists (select 1
                         from checkpoints c
                        where c.thread_id = b.thread_id and c.checkpoint_ns = b.checkpoint_ns
                          and c.checkpoint -> 'channel_versions' ->> b.channel = b.version)`,
  'no row twice': `
    select 'blob', thread_id, checkpoint_ns, channel, version
      from checkpoint_blobs group by thread_id, checkpoint_ns, channel, version having count(*) > 1
     union all
    select 'write', thread_id, checkpoint_ns, checkpoint_id, task_id || idx
      from checkpoint_writes group by thread_id, checkpoint_ns, checkpoint_id, task_id || idx having count(*) > 1`,
  'no blob is another one’s': `
    select thread_id, channel, version from checkpoint_blobs where convert_from(blob, 'UTF8') <> channel || version`,
  'no write is another one’s, and none is torn': `
    select thread_id, checkpoint_id, task_id
      from checkpoint_writes
     group by thread_id, checkpoint_id, task_id
    having count(*) <> 2 or count(distinct blob) <> 1`,
};
type Invariant = keyof typeof INVARIANTS;

let app: TestApp;
// As many statements at once as there are requests, and both ways into the database.
const start = async (environment: Record<string, string> = {}) => {
  app = await startApp({ DATABASE_POOL_MAX: '16', ...environment });
  // Statements and transactions take their time halfway, so that they meet there: some milliseconds instead of some
  // microseconds, within which hardly any of these tests would ever fail.
  await app.database.sql(
    `create function dawdle() returns trigger language plpgsql as $$
     begin
       perform pg_sleep(random() * 0.008);
       return new;
     end $$`,
  );
  await app.database.sql(
    `create trigger dawdle before insert on checkpoint_blobs for each row execute function dawdle()`,
  );
  await app.database.sql(
    `create constraint trigger dawdle after insert or update or delete on checkpoints
       deferrable initially deferred for each row execute function dawdle()`,
  );
};
afterEach(() => app.close());

const id = (n: number) => String(n).padStart(6, '0');
const blob = (channel: string, version: number) => ({
  channel,
  version: String(version),
  type: 't',
  blob: base64(`${channel}${version}`),
});

/** A put as an agent makes it: it sends the blobs of all its channels, most of which are there already. */
function put(thread_id: string, n: number, fields: Record<string, unknown> = {}) {
  const shared = Math.floor(n / 4);
  return app.post(
    'put',
    aPut({
      thread_id,
      checkpoint_id: id(n),
      parent_checkpoint_id: n === 0 ? null : id(n - 1),
      checkpoint: { v: 4, channel_versions: { fresh: String(n), shared: String(shared), first: '0' } },
      blobs: [blob('fresh', n), blob('shared', shared), blob('first', 0)],
      ...fields,
    }),
  );
}

const writes = (thread_id: string, n: number, task: string, content: string, upsert = false) =>
  app.post(
    'put-writes',
    aPutWrites({
      thread_id,
      checkpoint_id: id(n),
      upsert,
      writes: [0, 1].map((idx) => aWrite({ task_id: task, idx, blob: base64(content) })),
    }),
  );

/** All of them have to succeed. */
async function succeed(requests: Promise<{ status: number }>[]): Promise<void> {
  const statuses = (await Promise.all(requests)).map(({ status }) => status);
  expect(statuses.filter((status) => status > 204)).toEqual([]);
}

async function expectInvariants(...names: Invariant[]): Promise<void> {
  const broken: Record<string, unknown[]> = {};
  for (const name of names) broken[name] = await app.database.sql(INVARIANTS[name]);
  expect(broken).toEqual(Object.fromEntries(names.map((name) => [name, []])));
}
const ALL = Object.keys(INVARIANTS) as Invariant[];
/** What is deleted by its run, or with its thread, may have been a parent. */
const BUT_PARENTS = ALL.filter((name) => name !== 'no parent that is gone');

/** Ids and parents of a thread, the oldest first. */
const chainOf = (threadId: string) =>
  app.database.sql<{ id: string; parent: string | null }>(
    `select checkpoint_id as id, parent_checkpoint_id as parent from checkpoints where thread_id = $1 order by 1`,
    [threadId],
  );
const chain = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, n) => ({
    id: id(from + n),
    parent: from + n === 0 ? null : id(from + n - 1),
  }));
/** Within the time that a few statements take, so that each may be the first. */
const soon = <T>(request: () => Promise<T>) => delay(Math.random() * 50).then(request);
const range = (count: number) => Array.from({ length: count }, (_, n) => n);
const shuffled = <T>(items: T[]) => {
  const left = [...items];
  return items.map(() => left.splice(Math.floor(Math.random() * left.length), 1)[0] as T);
};

describe('many at once', () => {
  it.each([
    ['merged', 'true'],
    ['each by itself', 'false'],
  ])('writers on one thread lose nothing, %s', async (_, FAST_PATH) => {
    await start({ FAST_PATH });
    const thread = aThread();
    const requests = shuffled(
      range(60).flatMap((n) => [
        () => put(thread, n),
        () => put(thread, n), // as after a broken connection
        () => writes(thread, n, 'task-1', 'kept'),
        () => writes(thread, n, 'task-1', 'kept'),
        () => writes(thread, n, 'task-2', `first of ${n}`, true),
        () => writes(thread, n, 'task-2', `second of ${n}`, true),
      ]),
    );
    await succeed(requests.map((request) => request()));
    expect(await chainOf(thread)).toEqual(chain(0, 60));
    const [count] = await app.database.sql(
      `select (select count(*)::int from checkpoint_blobs) as blobs, (select count(*)::int from checkpoint_writes) as writes`,
    );
    expect(count).toEqual({ blobs: 60 + 15 + 1, writes: 60 * 2 * 2 });
    await expectInvariants(...ALL);
  });

  it('puts that go on while their thread is pruned keep their blobs and their parents', async () => {
    await start();
    const thread = aThread();
    let isOver = false;
    const prune = async () => {
      while (!isOver) await succeed([app.post('prune', { thread_ids: [thread], strategy: 'keep_latest' })]);
    };
    const pruning = [prune(), prune()];
    for (const n of range(150)) {
      // The parent that prune left, and the next, are there when both have been answered.
      await succeed([put(thread, n), writes(thread, n, 'task-1', `${n}`)]);
    }
    isOver = true;
    await Promise.all(pruning);
    await expectInvariants(...ALL);
    await succeed([app.post('prune', { thread_ids: [thread], strategy: 'keep_latest' })]);
    // Exactly what the newest needs is left.
    expect(await chainOf(thread)).toEqual([{ id: id(149), parent: null }]);
    expect(await app.database.sql('select channel, version from checkpoint_blobs order by channel')).toEqual([
      { channel: 'first', version: '0' },
      { channel: 'fresh', version: '149' },
      { channel: 'shared', version: '37' },
    ]);
    expect(await app.database.sql('select distinct checkpoint_id from checkpoint_writes')).toEqual([
      { checkpoint_id: id(149) },
    ]);
    await expectInvariants(...ALL);
  });

  it('puts that reuse a blob while the runs that made it are deleted find it, or store it anew', async () => {
    await start();
    const threads = range(4).map(() => aThread());
    for (const round of range(25)) {
      const base = round * 4;
      // The only checkpoint that refers to `shared` goes while another one comes.
      await succeed(threads.map((thread) => put(thread, base, { metadata: { run_id: `run-${round}` } })));
      await succeed([
        ...threads.map((thread) => soon(() => put(thread, base + 1))),
        soon(() => app.post('delete-for-runs', { run_ids: [`run-${round}`] })),
      ]);
      await expectInvariants(...BUT_PARENTS);
    }
  });

  it('runs that are deleted at once leave no blob that both referred to', async () => {
    await start();
    const thread = aThread();
    for (const round of range(15)) {
      const runs = range(4).map((n) => `run-${round}-${n}`);
      for (const [n, run_id] of runs.entries()) {
        await succeed([put(thread, round * 4 + n, { metadata: { run_id } })]);
      }
      await succeed(runs.map((run_id) => soon(() => app.post('delete-for-runs', { run_ids: [run_id] }))));
      await expectInvariants(...BUT_PARENTS);
    }
    expect(await app.database.sql('select from checkpoint_blobs')).toEqual([]);
  });

  it('deletes leave all of a put or nothing, and whoever puts afterwards has it all', async () => {
    await start();
    const thread = aThread();
    // With blobs of its own: one that a put shares with a checkpoint which is just deleted is deleted with that.
    const putAlone = (n: number) =>
      put(thread, n, {
        checkpoint: { v: 4, channel_versions: { fresh: String(n) } },
        blobs: [blob('fresh', n)],
      });
    for (let round = 0; round < 20; round += 1) {
      await succeed(
        shuffled([
          ...range(8).map((n) => () => putAlone(n)),
          ...range(3).map(() => () => app.post('delete-thread', { thread_id: thread })),
          () => app.post('prune', { thread_ids: [thread], strategy: 'delete' }),
        ]).map(soon),
      );
      await expectInvariants(...BUT_PARENTS);
    }
    await succeed(range(8).map((n) => putAlone(n)));
    expect(await chainOf(thread)).toEqual(chain(0, 8));
    await succeed([app.post('delete-thread', { thread_id: thread })]);
    const left = await app.database.sql(
      `select thread_id from checkpoints union all select thread_id from checkpoint_blobs union all select thread_id from checkpoint_writes`,
    );
    expect(left).toEqual([]);
  });

  it('copies are of one moment: every checkpoint with its blobs and its parent', async () => {
    await start();
    const source = aThread();
    const targets: string[] = [];
    let isOver = false;
    const copying = range(3).map(async () => {
      while (!isOver) {
        const target = aThread();
        targets.push(target);
        const copy = { source_thread_id: source, target_thread_id: target };
        await succeed([app.post('copy-thread', copy), app.post('copy-thread', copy)]);
      }
    });
    for (const n of range(60)) await succeed([put(source, n), writes(source, n, 'task-1', `${n}`)]);
    isOver = true;
    await Promise.all(copying);
    for (const target of targets) {
      const copied = await chainOf(target);
      expect(copied).toEqual(chain(0, copied.length));
    }
    const [last = ''] = targets;
    await succeed([app.post('copy-thread', { source_thread_id: source, target_thread_id: last })]);
    expect(await chainOf(last)).toEqual(chain(0, 60));
    await expectInvariants(...ALL);
  });
});
