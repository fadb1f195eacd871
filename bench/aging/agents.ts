/** As agents.py, for Node; started with --expose-gc. */
import { randomUUID } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { Annotation, END, START, StateGraph } from '@langchain/langgraph';
import { emptyCheckpoint } from '@langchain/langgraph-checkpoint';
import { HttpCheckpointSaver } from '../../clients/typescript/src/index.js';
import type { Aging, AgingTask } from './page.js';

const SAMPLES = 5;
const AT_ONCE = 16;
const PAGE_BYTES = 4096;

const task = JSON.parse(await text(process.stdin)) as AgingTask;
const saver = new HttpCheckpointSaver({ baseUrl: task.serviceUrl });

function sample(phase: string, done: number): void {
  (globalThis as { gc?: () => void }).gc?.();
  const pages = Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]);
  const heapMb = process.memoryUsage().heapUsed / 2 ** 20;
  const descriptors = readdirSync('/proc/self/fd').length;
  const line: Aging = { phase, done, mb: (pages * PAGE_BYTES) / 2 ** 20, heapMb, descriptors };
  console.log(JSON.stringify(line));
}

const configOf = (thread_id: string) => ({ configurable: { thread_id, checkpoint_ns: '' } });

/** Five operations. */
async function step(): Promise<void> {
  const thread = randomUUID();
  const versions = { said: 1 };
  const checkpoint = {
    ...emptyCheckpoint(),
    channel_values: { said: ['x'.repeat(500)] },
    channel_versions: versions,
  };
  const metadata = { source: 'loop' as const, step: 1, parents: {} };
  const config = await saver.put(configOf(thread), checkpoint, metadata, versions);
  await saver.putWrites(config, [['said', ['y']]], randomUUID());
  await saver.getTuple(configOf(thread));
  await saver.list(configOf(thread), { limit: 2 }).next();
  await saver.deleteThread(thread);
}

const State = Annotation.Root({
  said: Annotation<string[]>({ reducer: (before, more) => [...before, ...more], default: () => [] }),
});
const endless = new StateGraph(State)
  .addNode('model', async () => {
    await delay(5);
    return { said: ['x'.repeat(500)] };
  })
  .addEdge(START, 'model')
  .addConditionalEdges('model', ({ said }) => (said.length < 1000 ? 'model' : END), ['model', END])
  .compile({ checkpointer: saver });

async function abortedRun(): Promise<void> {
  const abort = new AbortController();
  const run = endless.invoke({ said: [] }, { ...configOf(randomUUID()), signal: abort.signal });
  setTimeout(() => {
    abort.abort();
  }, 20);
  await run.catch(() => undefined);
}

/** The first sample comes after a fifth: until then caches fill. */
async function repeated(phase: string, count: number, operations: number, run: () => Promise<void>) {
  const each = Math.max(1, Math.floor((count * task.scale) / SAMPLES / operations / AT_ONCE));
  for (let number = 0; number <= SAMPLES; number += 1) {
    const agents = Array.from({ length: AT_ONCE }, async () => {
      for (let at = 0; at < each; at += 1) await run();
    });
    await Promise.all(agents);
    sample(phase, number * each * AT_ONCE * operations);
  }
}

await repeated('operations', 100_000, 5, step);
await repeated('aborted runs', 1_000, 1, abortedRun);
process.exit();
