/**
 * An agent that books a table. It needs no model and no network beside the checkpoint service. Kill it whenever you like, and
 * start it again with the same thread: it goes on from there, also from the question that it was waiting for.
 */
import { createInterface } from 'node:readline';
import { AIMessage, type BaseMessage, HumanMessage, ToolMessage } from '@langchain/core/messages';
import { Command, END, MessagesAnnotation, START, StateGraph, interrupt } from '@langchain/langgraph';
import { createCheckpointer } from 'langgraph-checkpoint-http';

type State = typeof MessagesAnnotation.State;

/** Stands for a model: it decides by looking at the last message. */
function model({ messages }: State): { messages: BaseMessage[] } {
  const last = messages.at(-1);
  if (last instanceof ToolMessage) return { messages: [new AIMessage(`Done: ${last.text}.`)] };
  const said = messages.filter((message) => message instanceof HumanMessage);
  if (!/book/i.test(last?.text ?? '')) {
    return { messages: [new AIMessage(`You said ${said.length} things, the last one: ${last?.text ?? ''}`)] };
  }
  const guests = /\d+/.exec(last?.text ?? '')?.[0] ?? '2';
  const tool_calls = [{ id: `call-${messages.length}`, name: 'find_table', args: { guests } }];
  return { messages: [new AIMessage({ content: '', tool_calls })] };
}

/** Runs once: its result is stored before anybody is asked. */
function findTable({ messages }: State): { messages: BaseMessage[] } {
  const [call] = (messages.at(-1) as AIMessage).tool_calls ?? [];
  console.log(`find_table runs with ${JSON.stringify(call?.args)}`);
  const content = `table 7 for ${String(call?.args.guests)} at 19:00`;
  return { messages: [new ToolMessage({ tool_call_id: call?.id ?? '', name: 'find_table', content })] };
}

/** The run ends here until somebody answers; then the node runs again, and `interrupt` returns the answer. */
function askPerson({ messages }: State): { messages: BaseMessage[] } {
  const offer = messages.at(-1) as ToolMessage;
  const answer = interrupt<string, string>(`Book ${offer.text}?`);
  const content = answer === 'yes' ? `booked ${offer.text}` : `not booked, since you said ${answer}`;
  // The same id replaces the message.
  return { messages: [new ToolMessage({ id: offer.id, tool_call_id: offer.tool_call_id, content })] };
}

const graph = new StateGraph(MessagesAnnotation)
  .addNode('model', model)
  .addNode('find_table', findTable)
  .addNode('ask_person', askPerson)
  .addEdge(START, 'model')
  .addConditionalEdges('model', ({ messages }) => {
    const last = messages.at(-1);
    return last instanceof AIMessage && last.tool_calls?.length ? 'find_table' : END;
  })
  .addEdge('find_table', 'ask_person')
  .addEdge('ask_person', 'model')
  .compile({ checkpointer: createCheckpointer() }); // CHECKPOINT_URL says where the service is

const config = { configurable: { thread_id: process.argv[2] ?? 'demo' } };

/** What the thread is waiting for; undefined when it is the person's turn. */
async function pendingQuestion(): Promise<string | undefined> {
  const { tasks } = await graph.getState(config);
  const [question] = tasks.flatMap(({ interrupts }) => interrupts);
  return question === undefined ? undefined : String(question.value);
}

let question = await pendingQuestion();
console.log(question === undefined ? 'agent: What can I do for you?' : `agent asks: ${question}`);

for await (const line of createInterface({ input: process.stdin })) {
  const { messages } =
    question === undefined
      ? await graph.invoke({ messages: [new HumanMessage(line)] }, config)
      : await graph.invoke(new Command({ resume: line }), config);
  question = await pendingQuestion();
  console.log(question === undefined ? `agent: ${messages.at(-1)?.text ?? ''}` : `agent asks: ${question}`);
}
