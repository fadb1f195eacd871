import { randomUUID } from 'node:crypto';
import { AIMessage } from '@langchain/core/messages';
import { Annotation, START, StateGraph } from '@langchain/langgraph';
import {
  type BaseCheckpointSaver,
  type Checkpoint,
  type CheckpointMetadata,
  DeltaSnapshot,
  ERROR,
  INTERRUPT,
  RESUME,
  TASKS,
  uuid6,
} from '@langchain/langgraph-checkpoint';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { anAgent, ask, resume } from '../../support/graph.js';
import { all, everythingOf, normalised } from '../../support/histories.js';
import { TABLES } from '../../support/schema.js';

let app: TestApp;
let http: HttpCheckpointSaver;
let postgres: PostgresSaver;
beforeAll(async () => {
  app = await startApp();
  http = new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key });
  postgres = PostgresSaver.fromConnString(app.database.url);
  await postgres.setup();
});
afterAll(async () => {
  await postgres.end();
  await app.close();
});

/** Every row of the thread as text, without the thread's name; of a write without its task path, which only one keeps. */
async function rowsOf(thread: string): Promise<string[]> {
  const rows = await app.database.sql<{ row: string }>(
    TABLES.map(
      (table) =>
        `select '${table} ' || (to_jsonb(t) - 'thread_id' - 'task_path')::text as row from ${table} t where thread_id = $1`,
    ).join(' union all ') + ' order by 1',
    [thread],
  );
  return rows.map(({ row }) => row);
}

const values = {
  messages: [new AIMessage({ id: 'm', content: 'hi \u{1f326}' })],
  bytes: Uint8Array.of(0, 255),
  nothing: null,
  number: 0.1 + 0.2,
  snapshot: new DeltaSnapshot([1]),
  set: new Set([1]),
  unnamed: 'not among the new versions',
};
const versions = { messages: 1, bytes: 2, nothing: 3, number: 4.5, snapshot: 5, set: 6, absent: 7 };

function aCheckpoint(): Checkpoint {
  return {
    v: 4,
    id: uuid6(1),
    ts: '2026-01-01T00:00:00.000Z',
    channel_values: values,
    channel_versions: { ...versions, other: 1e21 },
    versions_seen: { node: { messages: 1 } },
  };
}

it('stores the very rows that PostgresSaver stores', async () => {
  const checkpoint = aCheckpoint();
  const metadata = {
    source: 'loop',
    step: -1,
    parents: { '': 'x' },
    score: 1.5e-7,
    run_id: undefined,
    by: new AIMessage('object'),
  } as unknown as CheckpointMetadata;
  const rows: string[][] = [];
  for (const saver of [http, postgres]) {
    const thread = randomUUID();
    for (const checkpoint_ns of ['', 'child:1|inner']) {
      const configurable = { thread_id: thread, checkpoint_ns, checkpoint_id: 'parent' };
      const config = await saver.put({ configurable }, checkpoint, metadata, versions);
      await saver.putWrites(
        config,
        [
          ['messages', 1],
          [INTERRUPT, { value: 3 }],
        ],
        'a',
      );
      await saver.putWrites(
        config,
        [
          ['messages', 'again'],
          ['bytes', values.bytes],
        ],
        'a',
      );
      await saver.putWrites(
        config,
        [
          [ERROR, 'first'],
          [RESUME, [1]],
        ],
        'b',
      );
      await saver.putWrites(
        config,
        [
          [ERROR, 'replaced'],
          [INTERRUPT, undefined],
        ],
        'b',
      );
      await saver.putWrites(
        config,
        [
          ['x', 'mixed'],
          [ERROR, 'kept'],
        ],
        'b',
      );
    }
    rows.push(await rowsOf(thread));
  }
  expect(rows[0]).toHaveLength(30);
  expect(rows[0]).toEqual(rows[1]);
});

it('reads what PostgresSaver reads', async () => {
  const thread = randomUUID();
  const config = { configurable: { thread_id: thread, checkpoint_ns: '' } };
  const stored = await postgres.put(
    config,
    aCheckpoint(),
    { source: 'loop', step: 1, parents: {} },
    versions,
  );
  await postgres.putWrites(
    stored,
    [
      ['messages', values.messages],
      ['bytes', values.bytes],
    ],
    'b',
  );
  await postgres.putWrites(stored, [['set', values.set]], 'a');
  const [ours, theirs] = [await http.getTuple(config), await postgres.getTuple(config)];
  expect(normalised(ours)).toBe(normalised(theirs));
  expect(ours?.checkpoint.channel_values.messages).toEqual(values.messages);
  expect(ours?.checkpoint.channel_values).not.toHaveProperty('absent');
  expect(normalised(await all(http.list(config)))).toBe(normalised(await all(postgres.list(config))));
});

it('gives checkpoints older than version 4 the sends of their parent, as PostgresSaver does', async () => {
  const thread = randomUUID();
  const old = (id: string): Checkpoint => ({ ...aCheckpoint(), v: 3, id, channel_values: {} });
  const metadata: CheckpointMetadata = { source: 'loop', step: 1, parents: {} };
  const start = { configurable: { thread_id: thread, checkpoint_ns: '' } };
  const parent = await postgres.put(start, old(uuid6(1)), metadata, {});
  await postgres.putWrites(
    parent,
    [
      [TASKS, 'one'],
      ['messages', 'no send'],
      [TASKS, 'two'],
    ],
    'a',
  );
  const child = await postgres.put(parent, old(uuid6(2)), metadata, {});
  const tuple = await http.getTuple(child);
  expect(tuple?.checkpoint.channel_values[TASKS]).toEqual(['one', 'two']);
  expect(tuple?.checkpoint.channel_versions[TASKS]).toBe(1e21);
  expect(normalised(tuple)).toBe(normalised(await postgres.getTuple(child)));
  expect(normalised(await all(http.list(start)))).toBe(normalised(await all(postgres.list(start))));
});

it('takes NUL out of the texts of the metadata itself and leaves all else as it is', async () => {
  const metadata = { source: 'loop', step: 1, parents: {}, text: 'a\0b', deep: { text: 'a\0b' } };
  const put = (saver: BaseCheckpointSaver) =>
    saver.put(
      { configurable: { thread_id: randomUUID() } },
      { ...aCheckpoint(), versions_seen: { 'a\0b': {} } },
      metadata as CheckpointMetadata,
      {},
    );
  // PostgresSaver means to take them out, but looks for them after they were escaped.
  await expect(put(postgres)).rejects.toMatchObject({ code: '22P05' });
  const config = await put(http);
  const tuple = await http.getTuple(config);
  expect(tuple?.metadata).toEqual({ ...metadata, text: 'ab' });
  expect(tuple?.checkpoint.versions_seen).toEqual({ 'a\0b': {} });
});

describe.each([
  ['PostgresSaver', 'HttpCheckpointSaver', () => [postgres, http] as const],
  ['HttpCheckpointSaver', 'PostgresSaver', () => [http, postgres] as const],
])('a thread begun by %s and continued by %s', (_first, _second, pair) => {
  it('resumes a graph that waits inside a subgraph', async () => {
    const [first, second] = pair();
    const thread = randomUUID();
    await ask(first, thread);
    expect(await resume(second, thread)).toBe('Oslo: rain, Rome: rain, Oslo: rain, Rome: rain (yes)');
    // PostgresSaver ignores task paths, so it gives the writes of a checkpoint in another order.
    const views = await Promise.all(
      [first, second].map((saver) => everythingOf(anAgent(saver), saver, thread)),
    );
    const [left, right] = views.map(({ checkpoints, ...view }) => ({
      ...view,
      checkpoints: checkpoints.flat().map(({ pendingWrites, ...tuple }) => ({
        ...tuple,
        writes: new Set(pendingWrites?.map(normalised)),
      })),
    }));
    expect(left).toEqual(right);
    expect(views[0]?.state.values).toHaveProperty('approval', 'yes');
  });

  it('takes turns on one conversation', async () => {
    const savers = pair();
    const thread = { configurable: { thread_id: randomUUID() } };
    for (let turn = 0; turn < 6; turn++)
      await aCounter(savers[turn % 2]!).invoke({ log: [`${turn}`] }, thread);
    for (const saver of savers) {
      const { log } = (await aCounter(saver).getState(thread)).values as { log: string[] };
      expect(log).toEqual(['0', 'n1', '1', 'n3', '2', 'n5', '3', 'n7', '4', 'n9', '5', 'n11']);
    }
    await savers[1].deleteThread(thread.configurable.thread_id);
    expect(await savers[0].getTuple(thread)).toBeUndefined();
  });
});

function aCounter(checkpointer: BaseCheckpointSaver) {
  const State = Annotation.Root({
    log: Annotation<string[]>({ reducer: (known, more) => [...known, ...more], default: () => [] }),
  });
  return new StateGraph(State)
    .addNode('count', ({ log }) => ({ log: [`n${log.length}`] }))
    .addEdge(START, 'count')
    .compile({ checkpointer });
}
