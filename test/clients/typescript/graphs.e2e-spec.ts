import { randomUUID } from 'node:crypto';
import {
  Annotation,
  Command,
  DeltaValue,
  END,
  MemorySaver,
  START,
  Send,
  StateGraph,
  StateSchema,
} from '@langchain/langgraph';
import { JsonPlusSerializer, type BaseCheckpointSaver } from '@langchain/langgraph-checkpoint';
import { z } from 'zod';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { anAgent, ask, resume } from '../../support/graph.js';
import { all, everythingOf, normalised } from '../../support/histories.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

/** MemorySaver reads everything as JSON, also bytes, which LangGraph's serialiser writes as they are. */
class JsonSerializer extends JsonPlusSerializer {
  override dumpsTyped(value: unknown): Promise<[string, Uint8Array]> {
    return Promise.resolve(['json', this._dumps(value)]);
  }
}

function savers(): BaseCheckpointSaver[] {
  return [
    new MemorySaver(new JsonSerializer()),
    new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key }),
  ];
}

type Configured = { configurable: { thread_id: string } };
type AnyGraph = Parameters<typeof everythingOf>[0];

interface Scenario {
  name: string;
  /** Runs a thread and returns the graph that ran it; whatever it returns beside is compared too. */
  run: (saver: BaseCheckpointSaver, config: Configured) => Promise<{ graph: AnyGraph; seen?: unknown }>;
}

const Log = Annotation.Root({
  log: Annotation<string[]>({ reducer: (known, more) => [...known, ...more], default: () => [] }),
});

function says(...words: string[]) {
  return () => ({ log: words });
}

const SCENARIOS: Scenario[] = [
  {
    name: 'messages, tools by Send, bytes, a subgraph that asks, and its resume',
    run: async (saver, config) => {
      const threadId = config.configurable.thread_id;
      await ask(saver, threadId);
      const waiting = await everythingOf(anAgent(saver), saver, threadId);
      const answer = await resume(saver, threadId);
      return { graph: anAgent(saver), seen: { waiting, answer } };
    },
  },
  {
    name: 'a fan-out of 30 whose results are kept in order',
    run: async (saver, config) => {
      const graph = new StateGraph(Log)
        .addNode('one', ({ n }: { n: number }) => ({ log: [`${n}`] }), {
          input: Annotation.Root({ n: Annotation<number> }),
        })
        .addNode('join', ({ log }) => ({ log: [log.join()] }))
        .addConditionalEdges(START, () => Array.from({ length: 30 }, (_, n) => new Send('one', { n })), [
          'one',
        ])
        .addEdge('one', 'join')
        .addEdge('join', END)
        .compile({ checkpointer: saver });
      const seen = await graph.invoke({}, config);
      return { graph, seen };
    },
  },
  {
    name: 'values of every kind, and channels that come and go',
    run: async (saver, config) => {
      const State = Annotation.Root({
        map: Annotation<Map<string, number>>,
        set: Annotation<Set<string>>,
        bytes: Annotation<Uint8Array>,
        text: Annotation<string>,
        number: Annotation<number>,
        nothing: Annotation<null>,
        deep: Annotation<object>,
      });
      const graph = new StateGraph(State)
        .addNode('first', () => ({
          map: new Map([['a', 1]]),
          set: new Set(['x', 'y']),
          bytes: Uint8Array.of(0, 255, 128, 10),
          text: 'NUL \0, a lone \ud800, \u{1f326}, "\\',
          number: 0.1 + 0.2,
          nothing: null,
          deep: { a: [{ b: [1, [2, { c: undefined }]] }], 'key\0': 'x'.repeat(10_000) },
        }))
        .addNode('second', () => ({ bytes: new Uint8Array(0), number: -1e300, text: '' }))
        .addEdge(START, 'first')
        .addEdge('first', 'second')
        .compile({ checkpointer: saver });
      return { graph, seen: await graph.invoke({ number: 1 }, config) };
    },
  },
  {
    name: 'time travel: a fork from the middle, and the old branch beside it',
    run: async (saver, config) => {
      const graph = new StateGraph(Log)
        .addNode('a', says('a'))
        .addNode('b', ({ log }) => ({ log: [`b after ${log.join('')}`] }))
        .addNode('c', says('c'))
        .addEdge(START, 'a')
        .addEdge('a', 'b')
        .addEdge('b', 'c')
        .compile({ checkpointer: saver });
      await graph.invoke({ log: ['in'] }, config);
      const before = await all(graph.getStateHistory(config));
      const beforeB = before.find(({ next }) => next[0] === 'b')!;
      const replayed = await graph.invoke(null, beforeB.config);
      const fork = await graph.updateState(beforeB.config, { log: ['forked'] });
      const forked = await graph.invoke(null, fork);
      const old = await graph.getState(before[0]!.config);
      const loops = await all(graph.getStateHistory(config, { filter: { source: 'loop' }, limit: 3 }));
      const older = await all(graph.getStateHistory(config, { before: beforeB.config }));
      return { graph, seen: { replayed, forked, old, loops, older } };
    },
  },
  {
    name: 'a node that fails beside one that does not, then goes on',
    run: async (saver, config) => {
      let runs = 0;
      let isBroken = true;
      const graph = new StateGraph(Log)
        .addNode('works', () => {
          runs += 1;
          return { log: ['works'] };
        })
        .addNode('fails', async () => {
          // After its sibling, so that there is something to keep.
          await new Promise((resolve) => setTimeout(resolve, 50));
          if (isBroken) throw new Error('not yet');
          return { log: ['works too'] };
        })
        .addEdge(START, 'works')
        .addEdge(START, 'fails')
        .compile({ checkpointer: saver });
      await expect(graph.invoke({ log: ['in'] }, config)).rejects.toThrow('not yet');
      const failed = await everythingOf(graph, saver, config.configurable.thread_id);
      isBroken = false;
      await graph.invoke(null, config);
      return { graph, seen: { failed, runs } };
    },
  },
  {
    name: 'delta channels: parallel writers, snapshots, a fork, and many turns',
    run: async (saver, config) => {
      const State = new StateSchema({
        turn: z.number().default(0),
        history: new DeltaValue(
          z.array(z.string()).default(() => []),
          {
            inputSchema: z.string(),
            // The order shows.
            reducer: (known: string[], more: string[]) => [...known, ...more],
            snapshotFrequency: 4,
          },
        ),
      });
      const names = ['zeta', 'alpha', 'mid', 'beta'];
      const builder = new StateGraph(State).addNode('join', ({ turn }) => ({ turn: turn + 1, history: '|' }));
      for (const name of names) {
        builder
          .addNode(name, ({ turn }: { turn: number }) => ({ history: `${name} ${turn}` }))
          .addEdge(START, name)
          .addEdge(name, 'join');
      }
      const graph = builder.compile({ checkpointer: saver });
      for (let turn = 0; turn < 7; turn++) await graph.invoke({ history: `ask ${turn}` }, config);
      const past = (await all(graph.getStateHistory(config)))[9]!;
      const fork = await graph.updateState(past.config, { history: 'forked' }, 'join');
      await graph.invoke({ history: 'after the fork' }, fork);
      const state = await graph.invoke({ history: 'last' }, config);
      expect(state.history.at(0)).toBe('ask 0');
      return { graph: graph, seen: state };
    },
  },
  {
    name: 'checkpoints at the exit of a run only',
    run: async (saver, config) => {
      const graph = new StateGraph(Log)
        .addNode('a', says('a'))
        .addNode('b', says('b'))
        .addEdge(START, 'a')
        .addEdge('a', 'b')
        .compile({ checkpointer: saver });
      await graph.invoke({ log: ['in'] }, { ...config, durability: 'exit' });
      return { graph, seen: await graph.invoke({ log: ['again'] }, { ...config, durability: 'sync' }) };
    },
  },
  {
    name: 'two questions at once, answered one by one by their ids',
    run: async (saver, config) => {
      const graph = anAgent(saver);
      await ask(saver, config.configurable.thread_id);
      const { tasks } = await graph.getState(config, { subgraphs: true });
      const id = tasks.flatMap(({ interrupts }) => interrupts)[0]!.id!;
      await graph.invoke(new Command({ resume: { [id]: 'no' } }), config);
      return { graph };
    },
  },
];

describe('a graph with the HTTP saver ends as it does with MemorySaver', () => {
  it.each(SCENARIOS)('$name', async ({ run }) => {
    const results: string[] = [];
    for (const saver of savers()) {
      const threadId = randomUUID();
      const { graph, seen } = await run(saver, { configurable: { thread_id: threadId } });
      results.push(normalised({ seen, ...(await everythingOf(graph, saver, threadId)) }));
    }
    const [inMemory, overHttp] = results;
    expect(overHttp).toBe(inMemory);
  });

  it('1,000 steps, with their whole history', async () => {
    const State = Annotation.Root({ count: Annotation<number>, log: Log.spec.log });
    const histories: string[] = [];
    for (const saver of savers()) {
      const config = { configurable: { thread_id: randomUUID() }, recursionLimit: 1_100 };
      const graph = new StateGraph(State)
        .addNode('step', ({ count }) => ({ count: count + 1, log: count % 100 === 0 ? [`${count}`] : [] }))
        .addEdge(START, 'step')
        .addConditionalEdges('step', ({ count }) => (count < 1_000 ? 'step' : END))
        .compile({ checkpointer: saver });
      expect((await graph.invoke({ count: 0 }, config)).count).toBe(1_000);
      const history = await all(graph.getStateHistory(config));
      expect(history).toHaveLength(1_002);
      histories.push(normalised(history));
    }
    expect(histories[1]).toBe(histories[0]);
  }, 120_000);
});
