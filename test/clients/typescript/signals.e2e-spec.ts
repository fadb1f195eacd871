import { randomUUID } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { jest } from '@jest/globals';
import { Annotation, MemorySaver, START, StateGraph } from '@langchain/langgraph';
import type { BaseCheckpointSaver } from '@langchain/langgraph-checkpoint';
import { onAbort } from '../../../clients/typescript/src/abort.js';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';

/** What Node has warned of during this suite, see environment.mjs. */
const { nodeWarnings } = globalThis as unknown as { nodeWarnings: string[] };

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const STORED = { configurable: { thread_id: 'thread-1', checkpoint_id: 'c' } };
const listeners = (signal: AbortSignal) => getEventListeners(signal, 'abort').length;

describe('a signal that many calls share', () => {
  it('has one listener, whether they are under way, pause, or wait for their turn', async () => {
    let sent = 0;
    const fetch = (_url: unknown, init?: RequestInit) =>
      ++sent % 2 === 0
        ? Promise.resolve(new Response('{}', { status: 503 }))
        : new Promise<Response>((_resolve, reject) => {
            init?.signal?.addEventListener('abort', reject);
          });
    const options = { baseUrl: 'http://x', fetch, backoffMs: 60_000, abortGraceMs: 1, maxConcurrency: 20 };
    jest.spyOn(console, 'warn').mockImplementation(() => undefined);
    const savers = [new HttpCheckpointSaver(options), new HttpCheckpointSaver(options)];
    const stop = new AbortController();
    const config = { ...STORED, signal: stop.signal };
    const calls = savers.flatMap((saver) =>
      Array.from({ length: 30 }, () => [
        saver.getTuple(config),
        saver.putWrites(config, [['a', 1]], 'task'),
        saver.list(config).next(),
      ]).flat(),
    );
    const settled = Promise.allSettled(calls);
    await delay(50);
    // Of each saver 20 are under way for as long as half of them hang; the others have failed once, and pause.
    expect(sent).toBeGreaterThanOrEqual(40);
    expect(listeners(stop.signal)).toBe(1);
    stop.abort(new Error('enough'));
    const outcomes = await settled;
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toEqual([]);
    expect(listeners(stop.signal)).toBe(0);
  });

  it('has none once they are done', async () => {
    const saver = new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key });
    const { signal } = new AbortController();
    const reads = Array.from({ length: 30 }, () => saver.getTuple({ ...STORED, signal }));
    await new Promise((resolve) => setImmediate(resolve));
    expect(listeners(signal)).toBe(1);
    await Promise.all(reads);
    expect(listeners(signal)).toBe(0);
  });

  it('calls back those that still wait, and no others', () => {
    const stop = new AbortController();
    const called: string[] = [];
    const forget = ['a', 'b', 'c'].map((name) => onAbort(stop.signal, () => called.push(name)));
    forget[1]!();
    forget[1]!();
    stop.abort();
    forget[0]!();
    onAbort(stop.signal, () => called.push('late'));
    expect(called).toEqual(['a', 'c', 'late']);
  });

  it('has one listener again, after all were gone', () => {
    const { signal } = new AbortController();
    const first = onAbort(signal, () => undefined);
    first();
    const second = onAbort(signal, () => undefined);
    first();
    const third = onAbort(signal, () => undefined);
    expect(listeners(signal)).toBe(1);
    second();
    third();
    expect(listeners(signal)).toBe(0);
  });
});

describe('sixteen runs that store faster than the service answers', () => {
  const STEPS = 24;
  const State = Annotation.Root({
    log: Annotation<number[]>({ reducer: (known, more) => [...known, ...more], default: () => [] }),
  });
  const aGraph = (checkpointer: BaseCheckpointSaver) =>
    new StateGraph(State)
      .addNode('a', ({ log }) => ({ log: [log.length] }))
      .addNode('b', ({ log }) => ({ log: [log.length] }))
      .addEdge(START, 'a')
      .addEdge('a', 'b')
      // One run has one signal for all that it stores.
      .addConditionalEdges('b', ({ log }) => (log.length < STEPS ? 'a' : '__end__'))
      .compile({ checkpointer });

  beforeEach(() => nodeWarnings.splice(0));

  it.each([
    ['in memory', () => new MemorySaver()],
    ['over HTTP', () => new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key })],
    ['by fetch', () => new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key, fetch })],
  ])('make Node warn of nothing: %s', async (_name, saverOf) => {
    const graph = aGraph(saverOf());
    const runs = Array.from({ length: 16 }, () => {
      const config = { configurable: { thread_id: randomUUID() }, recursionLimit: 2 * STEPS };
      return graph.invoke({ log: [0] }, { ...config, durability: 'async' as const });
    });
    for (const { log } of await Promise.all(runs)) expect(log).toHaveLength(STEPS + 1);
    // Node warns in a later turn of the event loop.
    await delay(10);
    expect(nodeWarnings).toEqual([]);
  });
});
