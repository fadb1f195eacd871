import { randomUUID } from 'node:crypto';
import { DeltaValue, START, StateGraph, StateSchema } from '@langchain/langgraph';
import { BaseCheckpointSaver, emptyCheckpoint } from '@langchain/langgraph-checkpoint';
import { z } from 'zod';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { anAgent, ask, resume } from '../../support/graph.js';
import { all, everythingOf, normalised } from '../../support/histories.js';

let app: TestApp;
let saver: HttpCheckpointSaver;
beforeAll(async () => {
  app = await startApp();
  saver = new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key });
});
afterAll(() => app.close());

const State = new StateSchema({
  history: new DeltaValue(
    z.array(z.string()).default(() => []),
    {
      inputSchema: z.string(),
      reducer: (known: string[], more: string[]) => [...known, ...more],
      snapshotFrequency: 5,
    },
  ),
});

/** A conversation of delta channels: parallel writers, whose order shows. */
function aConversation(checkpointer: BaseCheckpointSaver) {
  return new StateGraph(State)
    .addNode('zeta', () => ({ history: 'zeta' }))
    .addNode('alpha', () => ({ history: 'alpha' }))
    .addEdge(START, 'zeta')
    .addEdge(START, 'alpha')
    .compile({ checkpointer });
}

async function talk(thread: string, turns: number): Promise<string[]> {
  let said: string[] = [];
  for (let turn = 0; turn < turns; turn++) {
    ({ history: said } = await aConversation(saver).invoke(
      { history: `ask ${turn}` },
      { configurable: { thread_id: thread } },
    ));
  }
  return said;
}

const idsOf = async (thread_id: string) =>
  (await all(saver.list({ configurable: { thread_id } }))).map(({ checkpoint }) => checkpoint.id);

it('copies a thread, so that both go on by themselves', async () => {
  const [source, target] = [randomUUID(), randomUUID()];
  await ask(saver, source);
  await saver.copyThread(source, target);
  await saver.copyThread(source, target);
  const [before, copy] = [
    await everythingOf(anAgent(saver), saver, source),
    await everythingOf(anAgent(saver), saver, target),
  ];
  expect(normalised(copy).replaceAll(target, source)).toBe(normalised(before).replaceAll(target, source));
  expect(await resume(saver, target)).toContain('(yes)');
  expect(normalised(await everythingOf(anAgent(saver), saver, source))).toBe(normalised(before));
});

/** Says of each checkpoint which run it is of, as LangGraph's server does. */
class RunSaver extends HttpCheckpointSaver {
  constructor(private readonly runId: string) {
    super({ baseUrl: app.url });
  }

  override put(...[config, checkpoint, metadata, versions]: Parameters<HttpCheckpointSaver['put']>) {
    return super.put(config, checkpoint, { ...metadata, run_id: this.runId } as typeof metadata, versions);
  }
}

it('deletes what runs have left', async () => {
  const thread = randomUUID();
  const graph = aConversation(saver);
  const runs = [randomUUID(), randomUUID()] as const;
  for (const runId of runs) {
    const config = { configurable: { thread_id: thread } };
    await aConversation(new RunSaver(runId)).invoke({ history: `run ${runId}` }, config);
  }
  const before = await all(saver.list({ configurable: { thread_id: thread } }));
  const runOf = (tuple: (typeof before)[number]) =>
    (tuple.metadata as { run_id?: string } | undefined)?.run_id;
  expect(new Set(before.map(runOf))).toEqual(new Set(runs));
  await saver.deleteForRuns([runs[1], 'of nobody']);
  const after = await all(saver.list({ configurable: { thread_id: thread } }));
  expect(new Set(after.map(runOf))).toEqual(new Set([runs[0]]));
  const { history } = (await graph.getState({ configurable: { thread_id: thread } })).values;
  expect(history).toEqual([`run ${runs[0]}`, 'alpha', 'zeta']);
});

it('prunes a thread to its latest checkpoint and keeps its delta channels whole', async () => {
  const [thread, other] = [randomUUID(), randomUUID()];
  const said = await talk(thread, 8);
  await ask(saver, other);
  const before = await idsOf(thread);
  await saver.prune([thread, other]);
  const after = await idsOf(thread);
  expect(after[0]).toBe(before[0]);
  expect(after.length).toBeLessThan(before.length / 2);
  expect(await talk(thread, 1)).toEqual([...said, 'ask 0', 'alpha', 'zeta']);
  expect(await resume(saver, other)).toContain('(yes)');
  await saver.prune([thread], { strategy: 'delete' });
  expect(await idsOf(thread)).toEqual([]);
});

it('rebuilds delta channels as the walk of the base class does, in one request', async () => {
  const thread = randomUUID();
  await talk(thread, 7);
  const config = { configurable: { thread_id: thread } };
  for (const { config } of await all(saver.list({ configurable: { thread_id: thread } }))) {
    const options = { config, channels: ['history', 'nowhere'] };
    const walked = await BaseCheckpointSaver.prototype.getDeltaChannelHistory.call(saver, options);
    expect(await saver.getDeltaChannelHistory(options)).toEqual(walked);
  }
  let requests = 0;
  const counting = new HttpCheckpointSaver({
    baseUrl: app.url,
    fetch: (...request) => {
      requests += 1;
      return fetch(...request);
    },
  });
  const { history } = await counting.getDeltaChannelHistory({ config, channels: ['history'] });
  expect(history?.writes.length).toBeGreaterThan(2);
  expect(requests).toBe(1);
});

it('stores a large value gzipped and reads it back', async () => {
  const encodings: (string | null)[] = [];
  const watched = new HttpCheckpointSaver({
    baseUrl: app.url,
    fetch: (url, init) => {
      encodings.push(new Headers(init?.headers).get('content-encoding'));
      return fetch(url, init);
    },
  });
  const value = {
    text: 'all work and no play \u{1f3a9} '.repeat(100_000),
    bytes: new Uint8Array(1_000_000).fill(255),
  };
  const config = { configurable: { thread_id: randomUUID(), checkpoint_id: 'c' } };
  const checkpoint = { ...emptyCheckpoint(), channel_values: value, channel_versions: { text: 1, bytes: 1 } };
  await watched.put(
    config,
    checkpoint,
    { source: 'loop', step: 1, parents: {} },
    checkpoint.channel_versions,
  );
  const stored = await watched.getTuple({
    configurable: { ...config.configurable, checkpoint_id: checkpoint.id },
  });
  expect(stored?.checkpoint.channel_values).toEqual(value);
  expect(encodings).toEqual(['gzip', null]);
});
