// The graphs of test_languages.py in TypeScript. Reads JSON lines of { graph, threadId, resume } from standard input, runs each, and
// prints what it ended with: { log, asked }, or { error }.
import { createInterface } from 'node:readline';
import { Annotation, Command, START, Send, StateGraph, interrupt } from '@langchain/langgraph';
import { compiledClient } from '../../../test/support/client.mjs';

const [baseUrl, apiKey] = process.argv.slice(2);
const client = await compiledClient();
const { HttpCheckpointSaver } = await import(client.url);
const checkpointer = new HttpCheckpointSaver({ baseUrl, apiKey });

const State = Annotation.Root({
  log: Annotation({ reducer: (known, said) => [...known, ...said], default: () => [] }),
});
const say = (word) => () => ({ log: [word] });
const ask =
  (...questions) =>
  () => ({ log: questions.map((question) => `${question}: ${interrupt(question)}`) });

function chain(nodes) {
  const graph = new StateGraph(State);
  let previous = START;
  for (const [name, node] of Object.entries(nodes)) {
    graph.addNode(name, node).addEdge(previous, name);
    previous = name;
  }
  return graph;
}

function together(nodes) {
  const graph = new StateGraph(State);
  for (const [name, node] of Object.entries(nodes)) graph.addNode(name, node).addEdge(START, name);
  return graph;
}

function sending(nodes) {
  const graph = new StateGraph(State).addNode('plan', say('plan')).addEdge(START, 'plan');
  for (const [name, node] of Object.entries(nodes)) graph.addNode(name, node);
  const names = Object.keys(nodes);
  return graph.addConditionalEdges('plan', () => names.map((name) => new Send(name, { log: [] })), names);
}

const graphs = {
  one: chain({ before: say('before'), ask: ask('send'), after: say('after') }),
  two: chain({ ask: ask('send', 'when') }),
  beside: together({ side: say('side'), ask: ask('send') }),
  both: together({ left: ask('left'), right: ask('right') }),
  within: chain({ sub: chain({ inner: say('inner'), ask: ask('send') }).compile(), after: say('after') }),
  sent: sending({ ask: ask('send') }),
};

async function run({ graph, threadId, resume }) {
  const input = resume === undefined ? { log: ['begin'] } : new Command({ resume });
  try {
    const compiled = graphs[graph].compile({ checkpointer });
    const { log, __interrupt__: asked = [] } = await compiled.invoke(input, {
      configurable: { thread_id: threadId },
    });
    return { log, asked: asked.map(({ value }) => value) };
  } catch (error) {
    return { error: error.name };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await run(JSON.parse(line))));
}
client.remove();
