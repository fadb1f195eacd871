import type { RunnableConfig } from '@langchain/core/runnables';
import {
  BaseCheckpointSaver,
  JsonPlusSerializer,
  TASKS,
  WRITES_IDX_MAP,
  type ChannelVersions,
  type Checkpoint,
  type CheckpointListOptions,
  type CheckpointMetadata,
  type CheckpointPendingWrite,
  type CheckpointTuple,
  type DeltaChannelHistory,
  type PendingWrite,
  type SerializerProtocol,
  compareWritesSortKeys,
  maxChannelVersion,
  writesSortKey,
} from '@langchain/langgraph-checkpoint';
import { fromBase64, toBase64 } from './base64.js';
import { CheckpointHttpError } from './error.js';
import { type AskedKey, type Id, idText, idTexts, namespaceText, optionalIdText, strangerTo } from './ids.js';
import { jsonOf, jsonOfList } from './json.js';
import { OtherLanguageError, isOfPython, refuseOtherLanguage } from './other-language.js';
import { type Answer, Transport, type TransportOptions } from './transport.js';
import { refuseLost } from './unserializable.js';
import { EMPTY, NEXT_CURSOR, TUPLE_PARTS, type WireHistory, type WireTuple, type WireWrite } from './wire.js';

export interface HttpCheckpointSaverOptions extends TransportOptions {
  /** Turns values into bytes and back; default LangGraph's `JsonPlusSerializer`. Metadata, which is JSON, goes past it. */
  serde?: SerializerProtocol | undefined;
  /**
   * Most checkpoints that `list` fetches at once, 1 to 1000. Pages start small and grow up to it, or to some 4 MiB of JSON; when the
   * service refuses a page as too large, it is asked for half of it. Default 100.
   */
  pageSize?: number | undefined;
}

/** Which checkpoints of a thread `prune` keeps: the newest of each namespace, or none. */
export type PruneStrategy = 'keep_latest' | 'delete';

const MAX_PAGE_SIZE = 1000;
/** So many characters of JSON a page should have: a few MB arrive soon, and are soon given back. */
const PAGE_LENGTH = 4 * 1024 * 1024;
/** Often the caller wants the newest few only. */
const FIRST_PAGE_SIZE = 8;

/**
 * A LangGraph checkpointer that keeps threads in a checkpoint-backend, over HTTP. It stores what `PostgresSaver` of
 * `@langchain/langgraph-checkpoint-postgres` stores, so on the same database either continues what the other began. In two
 * points it follows the interface where that saver does not: writes keep their task path, and channel versions are unique.
 *
 * Every method may be repeated with the same result, and retries by itself what may pass: see {@link TransportOptions} for
 * the limits. Every method rejects with a `CheckpointHttpError` when the service refuses, or gave no answer before the
 * deadline; methods that take a `RunnableConfig` also with the reason of its `signal` when that is aborted: reads at once, stores that
 * are under way after `abortGraceMs`.
 *
 * @example
 * ```ts
 * const checkpointer = new HttpCheckpointSaver({ baseUrl: 'http://checkpoints:5003' });
 * const graph = builder.compile({ checkpointer });
 * ```
 */
export class HttpCheckpointSaver extends BaseCheckpointSaver {
  private readonly transport: Transport;
  /** The service looks into metadata, so it must be JSON whatever `serde` makes of values. */
  private readonly metadataSerde = new JsonPlusSerializer();
  private readonly pageSize: number;

  /** Sends nothing. @throws TypeError when an option makes no sense */
  constructor(options: HttpCheckpointSaverOptions) {
    super(options.serde);
    const { pageSize = 100 } = options;
    if (!Number.isInteger(pageSize) || pageSize < 1 || pageSize > MAX_PAGE_SIZE) {
      throw new TypeError(`pageSize must be an integer from 1 to ${MAX_PAGE_SIZE}`);
    }
    this.pageSize = pageSize;
    this.transport = new Transport(options);
  }

  /**
   * One checkpoint of `configurable.thread_id` and `checkpoint_ns` (default `''`, the root graph): the one with
   * `checkpoint_id`, or else the latest, which is the one with the greatest id. Undefined when there is none.
   */
  async getTuple(config: RunnableConfig): Promise<CheckpointTuple | undefined> {
    const threadId = threadIdOf(config);
    if (threadId === undefined) return undefined;
    const key = askedKeyOf('getTuple', config);
    const isStranger = strangerTo(key);
    const request = JSON.stringify({ ...key, include: TUPLE_PARTS });
    const json = await this.post('get-tuple', config, key.thread_id, request, (found) =>
      found === null ? undefined : isStranger(found),
    );
    return json === null ? undefined : this.decode(json as WireTuple, threadId);
  }

  /**
   * Checkpoints, newest first, with their values and pending writes. All of `configurable` are filters: `thread_id` (absent:
   * every thread), `checkpoint_ns` (absent: every namespace) and `checkpoint_id`. Pages are fetched as they are consumed:
   * leaving the loop ends the fetching.
   * @param options `limit`: how many at most (absent: all); `before`: only older ones than its `checkpoint_id`; `filter`:
   * what `metadata` must contain
   */
  async *list(config: RunnableConfig, options?: CheckpointListOptions): AsyncGenerator<CheckpointTuple> {
    const { filter, before } = options ?? {};
    const key = {
      thread_id: threadIdOf(config) === undefined ? null : requiredThreadId('list', config),
      checkpoint_ns: namespaceText(config),
      checkpoint_id: optionalIdText(config, 'checkpoint_id'),
    };
    const request = {
      ...key,
      before_checkpoint_id: optionalIdText(before, 'checkpoint_id', 'before'),
      filter_metadata: filter !== undefined && Object.keys(filter).length > 0 ? filter : null,
      include: TUPLE_PARTS,
    };
    const isStranger = strangerTo(key);
    const stranger = (found: unknown) =>
      Array.isArray(found)
        ? found.map(isStranger).find((what) => what !== undefined)
        : 'something in place of a list';
    let left = Math.trunc(options?.limit ?? Infinity);
    let rows = Math.min(FIRST_PAGE_SIZE, this.pageSize);
    let cursor: string | null = null;
    while (left > 0) {
      const limit = Math.min(rows, left);
      let page: Answer;
      try {
        page = await this.transport.call('list', JSON.stringify({ ...request, limit, cursor }), {
          threadId: key.thread_id ?? undefined,
          signal: config.signal,
          stranger,
        });
      } catch (error) {
        if (limit === 1 || !(error instanceof CheckpointHttpError && error.isTooLarge)) throw error;
        rows = Math.floor(limit / 2);
        continue;
      }
      const tuples = page.json as WireTuple[];
      for (const tuple of tuples) {
        yield await this.decode(tuple, tuple.thread_id);
        left -= 1;
      }
      cursor = page.headers.get(NEXT_CURSOR);
      if (cursor === null) return;
      const fitting = Math.max(1, Math.floor((PAGE_LENGTH * tuples.length) / page.length));
      rows = Math.min(rows * 2, this.pageSize, fitting);
    }
  }

  /**
   * Stores a checkpoint and the values that `newVersions` names, all or nothing. Values that are stored already are kept; a
   * checkpoint that is stored already gets the new document and metadata, and keeps its parent, which is
   * `configurable.checkpoint_id`. NUL characters are taken out of the texts of the metadata's own keys.
   * @returns the configuration that leads to the checkpoint
   * @throws TypeError when `configurable.thread_id` is missing
   */
  async put(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    newVersions: ChannelVersions,
  ): Promise<RunnableConfig> {
    const { checkpoint_id: parentId, ...thread } = askedKeyOf('put', config);
    const key = { ...thread, checkpoint_id: idText(checkpoint.id, 'checkpoint.id') };
    const { channel_values: values, ...document } = checkpoint;
    const [blobs, storedMetadata] = await Promise.all([
      this.dumpBlobs(values, newVersions),
      this.dumpMetadata(metadata),
    ]);
    const body = jsonOf(
      { ...key, parent_checkpoint_id: parentId, checkpoint: document },
      { metadata: storedMetadata, blobs: jsonOfList(blobs) },
    );
    await this.post('put', config, key.thread_id, body, strangerTo(key));
    return configOf(threadIdOf(config), key.checkpoint_ns, checkpoint.id);
  }

  /**
   * Stores what a task wrote after `configurable.checkpoint_id`, all or nothing. Writes that are stored already are kept,
   * except those of LangGraph's own channels (errors, interrupts, resumes), which are replaced.
   * @throws TypeError when `configurable.thread_id` or `checkpoint_id` is missing
   */
  async putWrites(
    config: RunnableConfig,
    writes: PendingWrite[],
    taskId: string,
    taskPath = '',
  ): Promise<void> {
    const key = askedKeyOf('putWrites', config);
    if (key.checkpoint_id === null) throw missing('putWrites', 'checkpoint_id');
    if (writes.length === 0) return;
    const rows = await Promise.all(
      writes.map(async ([channel, value], position) => {
        // What JSON has no text for, such as a function, is null, as inside a list.
        const dumped = (await this.dump(channel, value)) ?? (await this.dump(channel, null));
        const { type, blob } = dumped ?? { type: 'json', blob: '""' };
        const idx = slotOf(channel) ?? position;
        return jsonOf({ task_id: taskId, idx, channel, type, task_path: taskPath }, { blob });
      }),
    );
    const upsert = writes.every(([channel]) => slotOf(channel) !== undefined);
    const body = jsonOf({ ...key, upsert }, { writes: jsonOfList(rows) });
    await this.post('put-writes', config, key.thread_id, body);
  }

  /** Removes every checkpoint, value and write of the thread, in all namespaces; also when there is none. */
  async deleteThread(threadId: Id): Promise<void> {
    const text = idText(threadId, 'threadId');
    await this.transport.call('delete-thread', JSON.stringify({ thread_id: text }), { threadId: text });
  }

  /** Copies every checkpoint, value and write to another thread, ids kept. What the target holds already stays. */
  async copyThread(sourceThreadId: Id, targetThreadId: Id): Promise<void> {
    const body = {
      source_thread_id: idText(sourceThreadId, 'sourceThreadId'),
      target_thread_id: idText(targetThreadId, 'targetThreadId'),
    };
    await this.transport.call('copy-thread', JSON.stringify(body), { threadId: body.source_thread_id });
  }

  /** Removes the checkpoints whose `metadata.run_id` is listed, with their writes and the values that nothing else uses. */
  async deleteForRuns(runIds: readonly Id[]): Promise<void> {
    const texts = idTexts(runIds, 'runIds');
    if (texts.length > 0) await this.transport.call('delete-for-runs', JSON.stringify({ run_ids: texts }));
  }

  /**
   * Removes checkpoints of the threads. `keep_latest` (default) keeps the newest one of each namespace, and whatever its
   * delta channels are rebuilt from; `delete` keeps nothing.
   */
  async prune(threadIds: readonly Id[], options: { strategy?: PruneStrategy } = {}): Promise<void> {
    const texts = idTexts(threadIds, 'threadIds');
    if (texts.length === 0) return;
    const body = { thread_ids: texts, strategy: options.strategy ?? 'keep_latest' };
    await this.transport.call('prune', JSON.stringify(body), { threadId: texts.join(', ') });
  }

  /**
   * What the `channels` were made of, in one request: for each the writes of the checkpoint's ancestors, oldest first, and as
   * `seed` the value of the nearest ancestor that stored one. The checkpoint itself (`configurable`, as in `getTuple`) is
   * left out.
   */
  override async getDeltaChannelHistory(options: {
    config: RunnableConfig;
    channels: string[];
  }): Promise<Record<string, DeltaChannelHistory>> {
    const { config, channels } = options;
    if (channels.length === 0 || threadIdOf(config) === undefined) {
      return Object.fromEntries(channels.map((channel) => [channel, { writes: [] }]));
    }
    const asked = new Set(channels);
    const key = askedKeyOf('getDeltaChannelHistory', config);
    const body = JSON.stringify({ ...key, channels: [...asked] });
    const stranger = (found: unknown) => {
      if (typeof found !== 'object' || found === null) return 'something in place of channels';
      const other = Object.keys(found).find((channel) => !asked.has(channel));
      return other === undefined ? undefined : `channel ${JSON.stringify(other)}, which was not asked for`;
    };
    const histories = (await this.post(
      'delta-channel-history',
      config,
      key.thread_id,
      body,
      stranger,
    )) as Record<string, WireHistory | undefined>;
    const entries = channels.map(async (channel): Promise<[string, DeltaChannelHistory]> => {
      const { writes = [], seed } = histories[channel] ?? {};
      const history: DeltaChannelHistory = {
        writes: await this.decodeWrites(inOrderOfReplay(writes).map((write) => ({ ...write, channel }))),
      };
      if (seed !== undefined) {
        history.seed = 'value' in seed ? seed.value : await this.load(seed.type, seed.blob);
      }
      return [channel, history];
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  /**
   * The next whole number, and a random fraction behind it. Values are kept by thread, namespace, channel and version, so two
   * branches of a fork that count alike would read each other's values, as they do with the JavaScript `PostgresSaver`
   * (https://github.com/langchain-ai/langgraphjs/issues/1812). `PostgresSaver` goes on from such a version by adding 1.
   */
  override getNextVersion(current: number | undefined): number {
    const fraction = Math.floor(Math.random() * 1e12);
    return Number(`${Math.floor(current ?? 0) + 1}.${String(fraction).padStart(12, '0')}`);
  }

  private async post(
    operation: string,
    config: RunnableConfig,
    threadId: string,
    body: string,
    stranger?: (json: unknown) => string | undefined,
  ): Promise<unknown> {
    const isStore = operation === 'put' || operation === 'put-writes';
    const call = { threadId, signal: config.signal, isStore, stranger };
    return (await this.transport.call(operation, body, call)).json;
  }

  /** The JSON of each. */
  private dumpBlobs(values: Checkpoint['channel_values'], versions: ChannelVersions): Promise<string[]> {
    return Promise.all(
      Object.entries(versions).map(async ([channel, version]) => {
        const dumped = Object.hasOwn(values, channel) ? await this.dump(channel, values[channel]) : undefined;
        const { type, blob } = dumped ?? { type: EMPTY, blob: 'null' };
        return jsonOf({ channel, version: String(version), type }, { blob });
      }),
    );
  }

  /**
   * The type and the JSON of the bytes. Undefined for what JSON has no text for, such as a function: of it the serialiser makes bytes
   * that nobody can read.
   * @throws TypeError that names the channel, when the serialiser refuses the value, such as a bigint
   */
  private async dump(channel: string, value: unknown): Promise<{ type: string; blob: string } | undefined> {
    if (typeof value === 'function' || typeof value === 'symbol') return undefined;
    try {
      const [type, bytes] = await this.serde.dumpsTyped(value);
      refuseLost(value, type, bytes);
      return isWithoutText(type, bytes.length) ? undefined : { type, blob: `"${toBase64(bytes)}"` };
    } catch (cause) {
      throw unstorable(`The value of the channel ${JSON.stringify(channel)}`, cause);
    }
  }

  /** The JSON of it. */
  private async dumpMetadata(metadata: CheckpointMetadata): Promise<string> {
    let json: string;
    try {
      const [type, bytes] = await this.metadataSerde.dumpsTyped(metadata);
      refuseLost(metadata, type, bytes);
      json = new TextDecoder().decode(bytes);
    } catch (cause) {
      throw unstorable('The metadata', cause);
    }
    if (!json.includes('\\u0000')) return json;
    const stored = JSON.parse(json) as Record<string, unknown>;
    for (const [key, value] of Object.entries(stored)) {
      if (typeof value === 'string') stored[key] = value.replaceAll('\0', '');
    }
    return JSON.stringify(stored);
  }

  private async decode(wire: WireTuple, threadId: unknown): Promise<CheckpointTuple> {
    const {
      checkpoint_ns: checkpointNs,
      parent_checkpoint_id: parentId,
      blobs,
      pending_writes: writes,
    } = wire;
    if (blobs === undefined || writes === undefined) {
      throw new Error('The service left out blobs or pending_writes: it does not know `include`');
    }
    refuseOtherLanguage(wire);
    const sends = wire.pending_sends ?? [];
    const [values, pendingWrites, pendingSends, metadata] = await Promise.all([
      this.decodeBlobs(blobs),
      this.decodeWrites([...writes].sort(compareWrites)),
      this.decodeWrites(wire.checkpoint.v < 4 ? sends : []),
      this.decodeMetadata(wire.metadata),
    ]);
    const checkpoint = {
      ...wire.checkpoint,
      channel_versions: wire.checkpoint.channel_versions ?? {},
      versions_seen: wire.checkpoint.versions_seen ?? {},
      channel_values: values,
    } as Checkpoint;
    if (pendingSends.length > 0) {
      checkpoint.channel_values[TASKS] = pendingSends.map(([, , value]) => value);
      const versions = Object.values(checkpoint.channel_versions);
      checkpoint.channel_versions[TASKS] =
        versions.length > 0 ? maxChannelVersion(...versions) : this.getNextVersion(undefined);
    }
    return {
      config: configOf(threadId, checkpointNs, wire.checkpoint_id),
      checkpoint,
      metadata,
      parentConfig: parentId ? configOf(threadId, checkpointNs, parentId) : undefined,
      pendingWrites,
    };
  }

  private async decodeBlobs(blobs: NonNullable<WireTuple['blobs']>): Promise<Record<string, unknown>> {
    const entries = blobs
      .filter(({ type, blob }) => type !== EMPTY && !isWithoutText(type, (blob ?? '').length))
      .map(async ({ channel, type, blob }) => [channel, await this.load(type, blob)] as const);
    return Object.fromEntries(await Promise.all(entries));
  }

  private decodeWrites(
    writes: Pick<WireWrite, 'task_id' | 'channel' | 'type' | 'blob'>[],
  ): Promise<CheckpointPendingWrite[]> {
    return Promise.all(
      writes.map(async ({ task_id, channel, type, blob }): Promise<CheckpointPendingWrite> => [
        task_id,
        channel,
        await this.load(type, blob),
      ]),
    );
  }

  /** Metadata is stored as it was serialised, so objects of LangChain in it are restored by the serialiser. */
  private async decodeMetadata(metadata: Record<string, unknown>): Promise<CheckpointMetadata> {
    const [type, bytes] = await this.metadataSerde.dumpsTyped(metadata);
    return (await this.metadataSerde.loadsTyped(type, bytes)) as CheckpointMetadata;
  }

  private async load(type: string | null, blob: string | null): Promise<unknown> {
    // Rows without a type are older than types; LangGraph's savers wrote JSON then.
    const known = type ?? 'json';
    if (isWithoutText(known, (blob ?? '').length)) return null;
    try {
      return (await this.serde.loadsTyped(known, fromBase64(blob ?? ''))) as unknown;
    } catch (cause) {
      // A serializer of the caller's may know the types of Python.
      if (isOfPython(known))
        throw new OtherLanguageError(undefined, `a value has the type ${known}`, { cause });
      throw cause;
    }
  }
}

/** The fixed place of LangGraph's own channels among the writes of a task. */
function slotOf(channel: string): number | undefined {
  return Object.hasOwn(WRITES_IDX_MAP, channel) ? WRITES_IDX_MAP[channel] : undefined;
}

/** The order in which a live run applies the writes of a superstep. */
function compareWrites(a: Omit<WireWrite, 'channel'>, b: Omit<WireWrite, 'channel'>): number {
  return compareWritesSortKeys(
    writesSortKey(a.task_path ?? '', a.task_id, a.idx),
    writesSortKey(b.task_path ?? '', b.task_id, b.idx),
  );
}

/** The checkpoints stay in the order of the chain; inside each one the order is that of a live run. */
function inOrderOfReplay(writes: WireHistory['writes']): WireHistory['writes'] {
  const byCheckpoint = new Map<string, WireHistory['writes']>();
  for (const write of writes) {
    const group = byCheckpoint.get(write.checkpoint_id);
    if (group === undefined) byCheckpoint.set(write.checkpoint_id, [write]);
    else group.push(write);
  }
  return [...byCheckpoint.values()].flatMap((group) => group.sort(compareWrites));
}

function configOf(threadId: unknown, checkpointNs: string, checkpointId: string): RunnableConfig {
  return { configurable: { thread_id: threadId, checkpoint_ns: checkpointNs, checkpoint_id: checkpointId } };
}

/** What the serialiser makes of what JSON has no text for, as PostgresSaver and earlier versions of this client stored it. */
function isWithoutText(type: string, length: number): boolean {
  return type === 'json' && length === 0;
}

function unstorable(what: string, cause: unknown): TypeError {
  const { message } = (cause ?? {}) as { message?: unknown };
  return new TypeError(`${what} cannot be stored: ${String(message ?? cause)}`, { cause });
}

/** As the caller gave it: a number stays one in the configurations that are returned. */
function threadIdOf(config: RunnableConfig): Id | null | undefined {
  return config.configurable?.thread_id as Id | null | undefined;
}

function requiredThreadId(method: string, config: RunnableConfig): string {
  const threadId = threadIdOf(config);
  if (threadId === undefined || threadId === null) throw missing(method, 'thread_id');
  return idText(threadId, 'config.configurable.thread_id');
}

/** What the configuration names; `''` is the root namespace. */
function askedKeyOf(
  method: string,
  config: RunnableConfig,
): AskedKey & { thread_id: string; checkpoint_ns: string } {
  return {
    thread_id: requiredThreadId(method, config),
    checkpoint_ns: namespaceText(config) ?? '',
    checkpoint_id: optionalIdText(config, 'checkpoint_id'),
  };
}

function missing(method: string, key: string): TypeError {
  return new TypeError(
    `${method} needs config.configurable.${key}; call the graph with { configurable: { thread_id: '…' } }`,
  );
}
