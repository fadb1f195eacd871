/** As agents.py, for Node: reads a Task from standard input, and prints a Sample of it. */
import { randomUUID } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { Annotation, END, MemorySaver, START, StateGraph } from '@langchain/langgraph';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import pg from 'pg';
import { HttpCheckpointSaver } from '../../clients/typescript/src/index.js';
import type { Sample, Task } from './scenarios.js';

const CONNECTIONS = 10;

const task = JSON.parse(await text(process.stdin)) as Task;
const MESSAGE = 'x'.repeat(task.messageBytes);

const State = Annotation.Root({
  messages: Annotation<string[]>({ reducer: (before, more) => [...before, ...more], default: () => [] }),
  left: Annotation<number>(),
});

const say = ({ left }: typeof State.State) => ({ messages: [MESSAGE], left: left - 1 });

async function savers(): Promise<{
  savers: (MemorySaver | PostgresSaver | HttpCheckpointSaver)[];
  end: () => Promise<void>;
}> {
  const each = <T>(make: () => T) => Array.from({ length: task.agents }, make);
  if (task.saver === 'memory') return { savers: each(() => new MemorySaver()), end: () => Promise.resolve() };
  if (task.saver === 'service') {
    const saver = new HttpCheckpointSaver({ baseUrl: task.serviceUrl });
    return { savers: each(() => saver), end: () => Promise.resolve() };
  }
  const saver = new PostgresSaver(new pg.Pool({ connectionString: task.databaseUrl, max: CONNECTIONS }));
  await saver.setup();
  return { savers: each(() => saver), end: () => saver.end() };
}

function graphOf(saver: MemorySaver | PostgresSaver | HttpCheckpointSaver) {
  return new StateGraph(State)
    .addNode('model', say)
    .addNode('tool', say)
    .addEdge(START, 'model')
    .addConditionalEdges('model', ({ left }) => (left > 0 ? 'tool' : END), ['tool', END])
    .addConditionalEdges('tool', ({ left }) => (left > 0 ? 'model' : END), ['model', END])
    .compile({ checkpointer: saver });
}

async function run(graph: ReturnType<typeof graphOf>, supersteps: number): Promise<void> {
  const messages = Array.from({ length: task.messagesBefore }, () => MESSAGE);
  const state = await graph.invoke(
    { messages, left: supersteps },
    {
      configurable: { thread_id: randomUUID() },
      recursionLimit: supersteps + 10,
      durability: task.durability,
    },
  );
  if (state.messages.length !== task.messagesBefore + supersteps) {
    throw new Error(`A run of ${supersteps} supersteps ended with ${state.messages.length} messages`);
  }
}

const { savers: own, end } = await savers();
const graphs = own.map(graphOf);
await Promise.all(graphs.map((graph) => run(graph, task.warmUp)));
const [began, cpu] = [performance.now(), process.cpuUsage()];
await Promise.all(graphs.map((graph) => run(graph, task.supersteps)));
const { user, system } = process.cpuUsage(cpu);
const supersteps = task.agents * task.supersteps;
const sample: Sample = {
  wallMs: (performance.now() - began) / supersteps,
  cpuMs: (user + system) / 1000 / supersteps,
};
console.log(JSON.stringify(sample));
await end();
process.exit();
