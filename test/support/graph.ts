import { AIMessage, HumanMessage, ToolMessage } from '@langchain/core/messages';
import {
  Annotation,
  Command,
  END,
  MessagesAnnotation,
  START,
  Send,
  StateGraph,
  interrupt,
} from '@langchain/langgraph';
import type { BaseCheckpointSaver, CheckpointTuple } from '@langchain/langgraph-checkpoint';
import type { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';

const State = Annotation.Root({
  ...MessagesAnnotation.spec,
  weather: Annotation<string[]>({ reducer: (known, found) => [...known, ...found], default: () => [] }),
  digest: Annotation<Uint8Array>,
  approval: Annotation<string>,
});

const Question = Annotation.Root({ city: Annotation<string> });

/**
 * An agent without a model: it fans out to a tool, asks a person inside a subgraph, and answers. Its state has every kind
 * of value that the savers store differently: messages, JSON, bytes, and channels that are empty.
 */
export function anAgent(checkpointer: BaseCheckpointSaver) {
  const review = new StateGraph(State)
    .addNode('human', () => ({ approval: interrupt<string, string>('Send it?') }))
    .addEdge(START, 'human')
    .compile();
  return new StateGraph(State)
    .addNode('plan', () => ({
      messages: [new AIMessage({ id: 'plan', content: 'I look it up \u{1f326}' })],
      digest: Uint8Array.of(0, 255, 10),
    }))
    .addNode(
      'tool',
      ({ city }: typeof Question.State) => ({
        weather: [`${city}: rain`],
        messages: [new ToolMessage({ id: `tool-${city}`, tool_call_id: `call-${city}`, content: 'rain' })],
      }),
      { input: Question },
    )
    .addNode('review', review)
    .addNode('answer', ({ weather, approval }) => ({
      messages: [new AIMessage({ id: 'answer', content: `${weather.join(', ')} (${approval})` })],
    }))
    .addEdge(START, 'plan')
    .addConditionalEdges('plan', () => ['Oslo', 'Rome'].map((city) => new Send('tool', { city })), ['tool'])
    .addEdge('tool', 'review')
    .addEdge('review', 'answer')
    .addEdge('answer', END)
    .compile({ checkpointer });
}

/** Runs the agent on the thread until it asks. */
export async function ask(checkpointer: BaseCheckpointSaver, threadId: string): Promise<void> {
  await anAgent(checkpointer).invoke(
    { messages: [new HumanMessage({ id: 'question', content: 'Do I need an umbrella?' })] },
    { configurable: { thread_id: threadId } },
  );
}

/** Answers the agent's question; returns the last thing that it says. */
export async function resume(checkpointer: BaseCheckpointSaver, threadId: string): Promise<string> {
  const { messages } = await anAgent(checkpointer).invoke(new Command({ resume: 'yes' }), {
    configurable: { thread_id: threadId },
  });
  return messages.at(-1)?.text ?? '';
}

/** All checkpoints of the thread, in every namespace, as the saver reads them. */
export async function listBySaver(saver: PostgresSaver, threadId: string): Promise<CheckpointTuple[]> {
  const tuples: CheckpointTuple[] = [];
  for await (const tuple of saver.list({ configurable: { thread_id: threadId } })) tuples.push(tuple);
  return tuples;
}

interface Wire {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: CheckpointTuple['checkpoint'];
  metadata: CheckpointTuple['metadata'];
  blobs: { channel: string; type: string; blob: string | null }[];
  pending_writes: { task_id: string; channel: string; type: string; blob: string }[];
}

/** A tuple of the service as the saver would have decoded it. */
export async function decode(saver: PostgresSaver, wire: Wire): Promise<CheckpointTuple> {
  const { thread_id, checkpoint_ns, parent_checkpoint_id, metadata } = wire;
  const load = (type: string, blob: string): Promise<unknown> =>
    saver.serde.loadsTyped(type, Buffer.from(blob, 'base64'));
  const config = (checkpoint_id: string) => ({ configurable: { thread_id, checkpoint_ns, checkpoint_id } });
  return {
    config: config(wire.checkpoint_id),
    parentConfig: parent_checkpoint_id === null ? undefined : config(parent_checkpoint_id),
    metadata,
    checkpoint: {
      ...wire.checkpoint,
      channel_values: Object.fromEntries(
        await Promise.all(
          wire.blobs
            .filter(({ type }) => type !== 'empty')
            .map(async ({ channel, type, blob }) => [channel, await load(type, blob ?? '')]),
        ),
      ) as Record<string, unknown>,
    },
    pendingWrites: await Promise.all(
      wire.pending_writes.map(
        async ({ task_id, channel, type, blob }): Promise<[string, string, unknown]> => [
          ...([task_id, channel] as [string, string]),
          await load(type, blob),
        ],
      ),
    ),
  };
}
