import { randomUUID } from 'node:crypto';
import { Annotation, MemorySaver, START, StateGraph } from '@langchain/langgraph';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { type Fault, type FaultyProxy, startFaultyProxy } from '../../support/faulty-proxy.js';
import { anAgent, ask, resume } from '../../support/graph.js';
import { until } from '../../support/process.js';
import { everythingOf, normalised } from '../../support/histories.js';

let app: TestApp;
let proxy: FaultyProxy | undefined;
beforeAll(async () => {
  app = await startApp();
});
afterEach(() => proxy?.close());
afterAll(() => app.close());

async function aSaverBehind(
  faultOf: (request: number, path: string) => Fault,
  options: { timeoutMs?: number; abortGraceMs?: number } = {},
): Promise<HttpCheckpointSaver> {
  proxy = await startFaultyProxy(app.url, faultOf);
  return new HttpCheckpointSaver({ baseUrl: proxy.url, backoffMs: 5, timeoutMs: 10_000, ...options });
}

const EVERY_THIRD: { name: string; faults: Fault[]; timeoutMs?: number }[] = [
  { name: 'a connection that drops before the service gets the request', faults: ['drop before'] },
  { name: 'a connection that drops when the service has stored it', faults: ['drop after'] },
  { name: '503 with Retry-After', faults: ['503'] },
  { name: 'a hang', faults: ['hang'], timeoutMs: 300 },
  {
    name: 'all of them',
    faults: ['drop before', '503', 'drop after', 'cut', '502', 'hang'],
    timeoutMs: 300,
  },
];

it.each(EVERY_THIRD)(
  'a graph ends right when every third request meets $name',
  async ({ faults, timeoutMs }) => {
    const saver = await aSaverBehind(
      (request) => (request % 3 === 0 ? faults[(request / 3) % faults.length]! : 'none'),
      { timeoutMs: timeoutMs ?? 10_000 },
    );
    const direct = new HttpCheckpointSaver({ baseUrl: app.url });
    const threads = [randomUUID(), randomUUID()] as const;
    const answers: string[] = [];
    for (const [at, checkpointer] of [saver, direct].entries()) {
      await ask(checkpointer, threads[at]!);
      answers.push(await resume(checkpointer, threads[at]!));
    }
    expect(answers[0]).toBe(answers[1]);
    const [troubled, calm] = await Promise.all(
      threads.map((thread) => everythingOf(anAgent(direct), direct, thread)),
    );
    expect(normalised(troubled)).toBe(normalised(calm));
    expect(proxy?.requests).toBeGreaterThan(20);
  },
);

describe('a run that is stopped', () => {
  const Log = Annotation.Root({
    log: Annotation<string[]>({ reducer: (known, more) => [...known, ...more], default: () => [] }),
  });
  let started: () => void;
  const aGraph = (checkpointer: HttpCheckpointSaver | MemorySaver, isSlow: boolean) =>
    new StateGraph(Log)
      .addNode('quick', () => ({ log: ['quick'] }))
      .addNode('slow', async (_state, { signal }: { signal?: AbortSignal }) => {
        started();
        if (isSlow) {
          await new Promise((_resolve, reject) => {
            signal?.addEventListener('abort', reject);
          });
        }
        return { log: ['slow'] };
      })
      .addEdge(START, 'quick')
      .addEdge('quick', 'slow')
      .compile({ checkpointer });

  it.each(['async', 'sync', 'exit'] as const)(
    'keeps what it has done, with durability %s',
    async (durability) => {
      const saver = new HttpCheckpointSaver({ baseUrl: app.url });
      const seen: string[] = [];
      for (const checkpointer of [saver, new MemorySaver()]) {
        const config = { configurable: { thread_id: randomUUID() }, durability };
        const stop = new AbortController();
        const begun = new Promise<void>((resolve) => (started = resolve));
        const run = aGraph(checkpointer, true).invoke({ log: ['in'] }, { ...config, signal: stop.signal });
        await begun;
        stop.abort();
        await expect(run).rejects.toThrow(/abort/i);
        // LangGraph lets go of the caller at once, and stores meanwhile what is under way.
        const stateOf = async () => {
          const { values, next } = await aGraph(checkpointer, true).getState(config);
          return JSON.stringify({ values, next });
        };
        await until('the stopped run has stored all', async () =>
          (await stateOf()).includes('"next":["slow"]'),
        );
        seen.push(await stateOf());
        if (durability !== 'exit') {
          expect((await aGraph(checkpointer, false).invoke(null, config)).log).toEqual([
            'in',
            'quick',
            'slow',
          ]);
        }
      }
      expect(seen[0]).toBe(seen[1]);
    },
  );

  it('ends soon, even when the service hangs', async () => {
    const saver = await aSaverBehind((_request, path) => (path.endsWith('/put') ? 'hang' : 'none'), {
      abortGraceMs: 200,
    });
    const stop = new AbortController();
    const begun = new Promise<void>((resolve) => (started = resolve));
    const config = { configurable: { thread_id: randomUUID() }, signal: stop.signal };
    const run = aGraph(saver, true).invoke({ log: ['in'] }, config);
    await begun;
    const before = Date.now();
    stop.abort();
    await expect(run).rejects.toThrow(/abort/i);
    expect(Date.now() - before).toBeLessThan(5_000);
  });
});
