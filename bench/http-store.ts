import { isDeepStrictEqual } from 'node:util';
import { Client } from 'undici';
import {
  type BlobOfStep,
  METADATA_FILTER,
  type Shape,
  type Step,
  TYPE,
  type TaskOfStep,
  pieces,
  remembered,
  stepsOf,
} from './payload.js';
import type { Operation, Page, Store } from './store.js';

/** The bodies of requests, put together from pieces that are made once for all agents of a process. */
export class Requests {
  private readonly step: (n: number) => Step;
  private readonly puts = new Map<number, string>();
  private readonly writes = new Map<number, string>();
  private readonly base64: string[];
  private readonly writeBase64: string[];

  constructor(
    private readonly shape: Shape,
    readonly page: Page | null,
  ) {
    this.step = stepsOf(shape);
    const contents = pieces(shape.blobBytes);
    this.base64 = contents.map((piece) => piece.toString('base64'));
    this.writeBase64 = contents.map((piece) => piece.subarray(0, shape.writeBytes).toString('base64'));
  }

  put(threadId: string, n: number): string {
    const tail = remembered(this.puts, n, () => {
      const { checkpointId, parentCheckpointId, checkpoint, metadata, fresh } = this.step(n);
      return JSON.stringify({
        checkpoint_ns: '',
        checkpoint_id: checkpointId,
        parent_checkpoint_id: parentCheckpointId,
        checkpoint,
        metadata,
        blobs: fresh.map((blob) => this.wireBlob(blob)),
      }).slice(1);
    });
    return `{"thread_id":"${threadId}",${tail}`;
  }

  putWrites(threadId: string, n: number, task: number): string {
    const tail = remembered(this.writes, n * this.shape.tasks + task, () => {
      const { checkpointId, tasks } = this.step(n);
      const writes = this.wireWrites(tasks.slice(task, task + 1));
      return JSON.stringify({
        checkpoint_ns: '',
        checkpoint_id: checkpointId,
        writes: writes.map((write) => ({ ...write, task_path: '~__pregel_pull, model' })),
      }).slice(1);
    });
    return `{"thread_id":"${threadId}",${tail}`;
  }

  list(threadId: string, page: Page): string {
    return JSON.stringify({
      thread_id: threadId,
      limit: page.limit,
      ...(page.withNamespace && { checkpoint_ns: '' }),
      ...(page.before !== null && { before_checkpoint_id: this.step(page.before).checkpointId }),
      ...(page.withFilter && { filter_metadata: METADATA_FILTER }),
    });
  }

  /** What `list` says of a checkpoint. */
  item(threadId: string, n: number): object {
    const { checkpointId, parentCheckpointId, checkpoint, metadata } = this.step(n);
    return {
      thread_id: threadId,
      checkpoint_ns: '',
      checkpoint_id: checkpointId,
      parent_checkpoint_id: parentCheckpointId,
      checkpoint,
      metadata,
    };
  }

  /** What `get-tuple` answers, its blobs ordered by channel. */
  tuple(threadId: string, n: number): object {
    const { current, tasks } = this.step(n);
    return {
      ...this.item(threadId, n),
      blobs: current.map((blob) => this.wireBlob(blob)),
      pending_writes: this.wireWrites(tasks),
    };
  }

  private wireBlob({ channel, version, piece }: BlobOfStep): object {
    return { channel, version, type: TYPE, blob: this.base64[piece] };
  }

  private wireWrites(tasks: TaskOfStep[]): object[] {
    return tasks.flatMap(({ taskId, writes }) =>
      writes.map(({ channel, piece }, idx) => ({
        ...{ task_id: taskId, idx, channel, type: TYPE, blob: this.writeBase64[piece] },
      })),
    );
  }
}

/** One agent of the service or of the yardstick, with a connection of its own. */
export class HttpStore implements Store {
  private readonly client: Client;

  constructor(
    url: string,
    private readonly requests: Requests,
    private readonly keys: string[] = [],
  ) {
    this.client = new Client(url, { pipelining: 1 });
  }

  async put(threadId: string, n: number): Promise<void> {
    await this.send('put', threadId, this.requests.put(threadId, n), 200);
  }

  async putWrites(threadId: string, n: number, task: number): Promise<void> {
    await this.send('put-writes', threadId, this.requests.putWrites(threadId, n, task), 204);
  }

  async getTuple(threadId: string, n: number, isChecked: boolean): Promise<void> {
    const answer = await this.send(
      'get-tuple',
      threadId,
      `{"thread_id":"${threadId}","checkpoint_ns":""}`,
      200,
    );
    if (!isChecked) return;
    const tuple = JSON.parse(textOf(answer)) as { blobs: { channel: string }[] };
    tuple.blobs.sort((a, b) => (a.channel < b.channel ? -1 : 1));
    check(`get-tuple of ${threadId} at step ${n}`, tuple, this.requests.tuple(threadId, n));
  }

  async list(threadId: string, n: number, isChecked: boolean): Promise<void> {
    const { page } = this.requests;
    if (page === null) throw new Error('The profile names no page');
    const answer = await this.send('list', threadId, this.requests.list(threadId, page), 200);
    if (!isChecked) return;
    const newest = (page.before ?? n + 1) - 1;
    const items = Array.from({ length: page.limit }, (_, i) => this.requests.item(threadId, newest - i));
    check(`list of ${threadId} below step ${newest + 1}`, JSON.parse(textOf(answer)), items);
  }

  async deleteThread(threadId: string): Promise<void> {
    await this.send('delete-thread', threadId, `{"thread_id":"${threadId}"}`, 204);
  }

  /** That of the tenant whose the thread is: by the last digit of the UUID. */
  private keyOf(threadId: string): string | undefined {
    return this.keys.length === 0
      ? undefined
      : this.keys[parseInt(threadId.slice(-1), 16) % this.keys.length];
  }

  /** Resolves with the parts of the answer. @throws Error when the status is another one */
  private send(operation: Operation, threadId: string, body: string, status: number): Promise<Buffer[]> {
    const chunks: Buffer[] = [];
    const key = this.keyOf(threadId);
    let got = 0;
    return new Promise((resolve, reject) => {
      this.client.dispatch(
        {
          method: 'POST',
          path: `/checkpoints/${operation}`,
          headers: {
            'content-type': 'application/json',
            ...(key !== undefined && { 'x-agent-api-key': key }),
          },
          body,
        },
        {
          // Without it undici would take the handler for one of an older kind.
          onRequestStart: () => undefined,
          onResponseStart: (_controller, code) => void (got = code),
          onResponseData: (_controller, chunk) => void chunks.push(chunk),
          onResponseEnd: () => {
            if (got === status) resolve(chunks);
            else reject(new Error(`${operation} got ${got}: ${textOf(chunks)}`));
          },
          onResponseError: (_controller, error) => {
            reject(error);
          },
        },
      );
    });
  }
}

function textOf(chunks: Buffer[]): string {
  return Buffer.concat(chunks).toString();
}

function check(what: string, given: unknown, stored: unknown): void {
  if (!isDeepStrictEqual(given, stored)) throw new Error(`${what} is not what was stored`);
}
