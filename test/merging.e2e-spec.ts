import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { type Answer, type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { aGate, type Gate, HELD_UP } from './support/gate.js';
import { TABLES } from './support/schema.js';

let app: TestApp;
let gate: Gate;
beforeAll(async () => {
  // As many connections as lanes: while two statements are held up, everything else gathers.
  app = await startApp({ FAST_PATH: 'true', DATABASE_POOL_MAX: '2' });
  gate = await aGate(app.database);
});
afterAll(() => app.close());

const BLOB = { channel: 'c', version: '1', type: 't', blob: base64('value') };

/** Sends the requests so that all but the first two of a kind share a statement. A sequence holds these up: a lock does not for long. */
async function together(
  first: () => Promise<Answer>[],
  rest: () => Promise<Answer>[],
  meanwhile: () => Promise<unknown> = () => Promise.resolve(),
): Promise<Answer[]> {
  await gate.close();
  const begun = first();
  await waiting(begun.length);
  const before = app.received();
  const gathered = rest();
  while (app.received() < before + gathered.length) await delay(10);
  await delay(50); // for their bodies
  await meanwhile();
  await gate.open();
  await Promise.all(begun);
  return Promise.all(gathered);
}

/** Until so many statements of the service are held up. */
async function waiting(count: number): Promise<void> {
  const { sql } = app.database;
  for (;;) {
    await sql('select pg_stat_clear_snapshot()');
    if ((await sql(`select pid ${HELD_UP}`)).length === count) return;
    await delay(10);
  }
}

const put = (fields: object) => app.post('put', aPut({ thread_id: aThread(), blobs: [BLOB], ...fields }));
const twoPuts = () => [put({}), put({})];
/** How many transactions stored rows of that table for these checkpoints. */
const transactions = async (table: string, checkpointIds: string[]) => {
  const sql = `select count(distinct xmin::text)::int as count, count(*)::int as rows from ${table} where checkpoint_id = any($1)`;
  return (await app.database.sql(sql, [checkpointIds]))[0];
};

describe('concurrent requests', () => {
  it('share a statement', async () => {
    const ids = Array.from({ length: 20 }, () => aThread());
    const answers = await together(twoPuts, () => ids.map((checkpoint_id) => put({ checkpoint_id })));
    expect(answers.map(({ status }) => status)).toEqual(Array(20).fill(200));
    expect(answers.map(({ json }) => (json as { checkpoint_id: string }).checkpoint_id)).toEqual(ids);
    expect(await transactions('checkpoints', ids)).toEqual({ count: 1, rows: 20 });
  });

  it('of parallel tasks of one thread share a statement', async () => {
    const key = { thread_id: aThread(), checkpoint_id: aThread() };
    const write = (task_id: string) =>
      app.post('put-writes', aPutWrites({ ...key, writes: [aWrite({ task_id })] }));
    await together(
      () => [write('first')],
      () => ['a', 'b', 'c'].map(write),
    );
    expect(await transactions('checkpoint_writes', [key.checkpoint_id])).toEqual({ count: 2, rows: 4 });
  });

  it('fail alone', async () => {
    await app.database.sql(
      `alter table checkpoints add constraint not_this check (checkpoint_id <> 'not this')`,
    );
    const answers = await together(twoPuts, () => [
      put({ checkpoint_id: 'good 1' }),
      app.post('put', `{"thread_id":"a","checkpoint_id":"b","checkpoint":{"x":1e200000}}`),
      put({ checkpoint_id: 'not this' }),
      put({ checkpoint_id: '\0' }),
      put({ checkpoint_id: 'good 2' }),
    ]);
    await app.database.sql('alter table checkpoints drop constraint not_this');
    expect(answers.map(({ status }) => status)).toEqual([200, 422, 500, 422, 200]);
    expect(answers[1]?.json).toMatchObject({ type: '/problems/unstorable-document' });
    expect(await transactions('checkpoints', ['good 1', 'good 2'])).toMatchObject({ rows: 2 });
  });

  it('keep the order of their thread, also for the same rows', async () => {
    const key = { thread_id: aThread(), checkpoint_id: 'c' };
    const write = (blob: string) =>
      app.post('put-writes', aPutWrites({ ...key, upsert: true, writes: [aWrite({ blob: base64(blob) })] }));
    await together(
      () => [put({ ...key, metadata: { n: 0 } }), put({})],
      () => [1, 2, 3].flatMap((n) => [put({ ...key, metadata: { n } }), write(`${n}`)]),
    );
    const { json } = await app.post('get-tuple', key);
    expect(json).toMatchObject({ metadata: { n: 3 }, pending_writes: [{ blob: base64('3') }] });
  });

  it('survive the end of their connection, and are stored once', async () => {
    const ids = Array.from({ length: 10 }, () => aThread());
    const { sql } = app.database;
    const answers = await together(
      () => ids.slice(0, 2).map((checkpoint_id) => put({ checkpoint_id })),
      () => ids.slice(2).map((checkpoint_id) => put({ checkpoint_id })),
      async () => {
        const killed = await sql(`select pg_terminate_backend(pid) from (select pid ${HELD_UP}) as blocked`);
        expect(killed).toHaveLength(2);
        await waiting(2);
      },
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200));
    expect(await transactions('checkpoints', ids)).toMatchObject({ rows: 10 });
  });
});

/** The rows by their keys; each as the text of its columns. */
type Rows = Map<string, { kept: string; replaced: string }>;

/** An operation, and what it does when it comes alone. */
interface Step {
  operation: 'put' | 'put-writes';
  body: object | string;
  status: number;
  apply: (rows: Rows) => void;
}

const thread = fc.constantFrom('x', 'y');
const oneOrTwo = fc.constantFrom('1', '2');
const value = fc.integer({ min: 0, max: 999 }).map(String);

/** Stores a row; of one that is there, `kept` stays, and `replaced` too unless `replace`. */
function store(rows: Rows, key: string, value: string, replace: boolean): void {
  const before = rows.get(key);
  if (before === undefined) rows.set(key, { kept: value, replaced: value });
  else if (replace) rows.set(key, { ...before, replaced: value });
}

const aStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc
      .record({ thread, id: oneOrTwo, version: oneOrTwo, value })
      .map(({ thread, id, version, value }): Step => ({
        operation: 'put',
        body: {
          ...{ thread_id: thread, checkpoint_id: id, parent_checkpoint_id: value },
          ...{ checkpoint: { value }, blobs: [{ channel: 'c', version, type: value, blob: null }] },
        },
        status: 200,
        apply: (rows) => {
          store(rows, `checkpoint ${thread} ${id}`, value, true);
          store(rows, `blob ${thread} ${version}`, value, false);
        },
      })),
  },
  {
    weight: 4,
    arbitrary: fc
      .record({ thread, task: oneOrTwo, upsert: fc.boolean(), value, idxs: fc.constantFrom([0], [1, 0]) })
      .map(({ thread, task, upsert, value, idxs }): Step => ({
        operation: 'put-writes',
        body: {
          ...{ thread_id: thread, checkpoint_id: '1', upsert },
          writes: idxs.map((idx) => aWrite({ task_id: task, idx, type: value, task_path: value })),
        },
        status: 204,
        apply: (rows) => {
          for (const idx of idxs) store(rows, `write ${thread} ${task} ${idx}`, value, upsert);
        },
      })),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step>(
      {
        operation: 'put',
        body: '{"thread_id":"x","checkpoint_id":"1","checkpoint":{"tooLarge":1e200000}}',
        status: 422,
        apply: () => undefined,
      },
      { operation: 'put-writes', body: { thread_id: 'x' }, status: 422, apply: () => undefined },
    ),
  },
);

/** Every order of the steps that keeps each caller's. */
function* orders(callers: Step[][]): Generator<Step[]> {
  if (callers.every((steps) => steps.length === 0)) yield [];
  for (const [at, [first, ...others]] of callers.entries()) {
    if (first === undefined) continue;
    for (const rest of orders(callers.with(at, others))) yield [first, ...rest];
  }
}

function textOf(rows: Rows): string {
  return JSON.stringify([...rows].sort(([a], [b]) => (a < b ? -1 : 1)));
}

async function storedRows(): Promise<Rows> {
  const rows = await app.database.sql<{ key: string; kept: string; replaced: string }>(`
    select concat_ws(' ', 'checkpoint', thread_id, checkpoint_id) as key,
           parent_checkpoint_id as kept, checkpoint ->> 'value' as replaced
      from checkpoints where thread_id in ('x', 'y')
     union all
    select concat_ws(' ', 'blob', thread_id, version), type, type from checkpoint_blobs where thread_id in ('x', 'y')
     union all
    select concat_ws(' ', 'write', thread_id, task_id, idx), task_path, type from checkpoint_writes`);
  return new Map(rows.map(({ key, kept, replaced }) => [key, { kept, replaced }]));
}

it('concurrent requests end as if they had come one by one', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(aStep, { maxLength: 3 }), { minLength: 3, maxLength: 3 }),
      async (callers) => {
        await app.database.sql(`truncate ${TABLES.join()}`);
        // Others that keep the lanes busy, so that what matters shares statements.
        const others = Array.from({ length: 4 }, () => put({}));
        await Promise.all(
          callers.map(async (steps) => {
            for (const { operation, body, status } of steps) {
              expect((await app.post(operation, body)).status).toBe(status);
            }
          }),
        );
        await Promise.all(others);
        const state = textOf(await storedRows());
        const possible = new Set<string>();
        for (const order of orders(callers)) {
          const rows: Rows = new Map();
          for (const step of order) step.apply(rows);
          possible.add(textOf(rows));
        }
        expect(possible).toContain(state);
      },
    ),
    { numRuns: 60 },
  );
});
