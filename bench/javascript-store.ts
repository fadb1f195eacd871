import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import { isDeepStrictEqual } from 'node:util';
import { type BlobOfStep, type Shape, type Step, pieces, stepsOf } from './payload.js';
import type { Store } from './store.js';

/** LangGraph.js's own saver, called directly. One for all agents of a process, with its pool of 10 connections. */
export class JavaScriptStore implements Store {
  private readonly saver: PostgresSaver;
  private readonly contents: Uint8Array[];
  private readonly writes: Uint8Array[];
  private readonly step: (n: number) => Step;

  constructor(databaseUrl: string, shape: Shape) {
    this.step = stepsOf(shape);
    this.saver = PostgresSaver.fromConnString(databaseUrl);
    this.contents = pieces(shape.blobBytes);
    this.writes = this.contents.map((content) => content.subarray(0, shape.writeBytes));
  }

  async put(threadId: string, n: number): Promise<void> {
    const { parentCheckpointId, checkpoint, metadata, fresh, current } = this.step(n);
    await this.saver.put(
      configOf(threadId, parentCheckpointId),
      { ...checkpoint, channel_values: this.values(current) },
      metadata,
      Object.fromEntries(fresh.map(({ channel, version }) => [channel, version])),
    );
  }

  async putWrites(threadId: string, n: number, task: number): Promise<void> {
    const { checkpointId, tasks } = this.step(n);
    const { taskId, writes } = tasks[task] ?? { taskId: '', writes: [] };
    await this.saver.putWrites(
      configOf(threadId, checkpointId),
      writes.map(({ channel, piece }) => [channel, this.writes[piece]]),
      taskId,
    );
  }

  async getTuple(threadId: string, n: number, isChecked: boolean): Promise<void> {
    const tuple = await this.saver.getTuple(configOf(threadId, null));
    if (!isChecked) return;
    const { checkpointId, checkpoint, metadata, current, tasks } = this.step(n);
    const stored = {
      checkpointId,
      checkpoint: { ...checkpoint, channel_values: this.values(current) },
      metadata,
      writes: tasks.flatMap(({ taskId, writes }) =>
        writes.map(({ channel, piece }) => [taskId, channel, this.writes[piece]]),
      ),
    };
    const given = {
      checkpointId: tuple?.config.configurable?.checkpoint_id as unknown,
      checkpoint: tuple?.checkpoint,
      metadata: tuple?.metadata,
      writes: tuple?.pendingWrites,
    };
    if (!isDeepStrictEqual(given, stored)) throw new Error(`getTuple of ${threadId} is not what was stored`);
  }

  list(): Promise<void> {
    throw new Error('Not measured');
  }

  deleteThread(): Promise<void> {
    throw new Error('Not measured');
  }

  private values(blobs: BlobOfStep[]): Record<string, unknown> {
    return Object.fromEntries(blobs.map(({ channel, piece }) => [channel, this.contents[piece]]));
  }
}

function configOf(threadId: string, checkpointId: string | null) {
  return {
    configurable: {
      ...{ thread_id: threadId, checkpoint_ns: '' },
      ...(checkpointId !== null && { checkpoint_id: checkpointId }),
    },
  };
}
