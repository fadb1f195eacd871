import type { StateSnapshot } from '@langchain/langgraph';
import {
  isDeltaSnapshot,
  type BaseCheckpointSaver,
  type CheckpointTuple,
} from '@langchain/langgraph-checkpoint';

/** What a run leaves differs from run to run: ids of checkpoints, tasks, messages and interrupts, and times. */
const ID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b/g;
const TIME = /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)/g;

/** The value as JSON, with its ids numbered in the order of their first appearance and its times taken out. */
export function normalised(value: unknown): string {
  const names = new Map<string, string>();
  const nameOf = (id: string): string => {
    const name = names.get(id) ?? `id-${names.size + 1}`;
    names.set(id, name);
    return name;
  };
  return JSON.stringify(value, withVisibleTypes, 1).replaceAll(TIME, 'time').replaceAll(ID, nameOf);
}

/** Maps, sets and bytes would all be `{}` in JSON, and a missing key would be one that is undefined. */
function withVisibleTypes(_key: string, value: unknown): unknown {
  if (value instanceof Map) return { map: [...(value as Map<unknown, unknown>)] };
  if (value instanceof Set) return { set: [...(value as Set<unknown>)] };
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (isBufferJson(value)) return { bytes: value.data };
  if (value instanceof Error) return { error: value.message };
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A Buffer has a toJSON() of its own, which comes first. */
function isBufferJson(value: unknown): value is { data: number[] } {
  return typeof value === 'object' && value !== null && 'type' in value && value.type === 'Buffer';
}

interface Graph {
  getState: (config: object, options?: { subgraphs?: boolean }) => Promise<StateSnapshot>;
  getStateHistory: (config: object) => AsyncIterable<StateSnapshot>;
}

/** All that a graph and its saver know of the thread: its state, its history, and every checkpoint of every namespace. */
export async function everythingOf(
  graph: Graph,
  saver: BaseCheckpointSaver,
  threadId: string,
): Promise<{ state: StateSnapshot; history: StateSnapshot[]; checkpoints: CheckpointTuple[][] }> {
  const configurable = { thread_id: threadId };
  const state = await graph.getState({ configurable }, { subgraphs: true });
  const history = await all(graph.getStateHistory({ configurable }));
  const tuples = await all(saver.list({ configurable }));
  // Savers differ in how they order namespaces, and the names of some hold the id of a task.
  const namespaces = new Map<string, CheckpointTuple[]>();
  for (const found of tuples) {
    const tuple = comparable(found);
    const name = tuple.config.configurable?.checkpoint_ns as string;
    namespaces.set(name, [...(namespaces.get(name) ?? []), tuple]);
  }
  const checkpoints = [...namespaces.values()].sort(
    ([a], [b]) => sizeOf(a) - sizeOf(b) || (idOf(a) < idOf(b) ? -1 : 1),
  );
  return { state, history, checkpoints };
}

/**
 * Without what savers may do differently: MemorySaver keeps values of channels that have no version yet; the Postgres tables
 * hold a snapshot for every checkpoint of the same version; of a version only its whole number is the same in all of them.
 */
function comparable(tuple: CheckpointTuple): CheckpointTuple {
  const { channel_values, channel_versions, versions_seen } = tuple.checkpoint;
  const known = Object.entries(channel_values).filter(
    ([channel, value]) => channel in channel_versions && !isDeltaSnapshot(value),
  );
  return {
    ...tuple,
    checkpoint: {
      ...tuple.checkpoint,
      channel_values: Object.fromEntries(known),
      channel_versions: wholeNumbers(channel_versions),
      versions_seen: Object.fromEntries(
        Object.entries(versions_seen).map(([node, versions]) => [node, wholeNumbers(versions)]),
      ),
    },
  };
}

function wholeNumbers(versions: Record<string, number | string>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(versions).map(([channel, version]) => [channel, Math.floor(Number(version))]),
  );
}

function sizeOf(tuple: CheckpointTuple | undefined): number {
  return ((tuple?.config.configurable?.checkpoint_ns as string | undefined) ?? '').length;
}

function idOf(tuple: CheckpointTuple | undefined): string {
  return tuple?.checkpoint.id ?? '';
}

export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}
