import type { Checkpoint, CheckpointMetadata } from '@langchain/langgraph-checkpoint';
import { randomUUID } from 'node:crypto';

/** What the agents of a profile store at each step. */
export interface Shape {
  channels: number;
  /** How many of the channels, in turn, each put gives a new blob. */
  freshChannels: number;
  blobBytes: number;
  /** put-writes of each step. */
  tasks: number;
  writeBytes: number;
}

/** A blob or write names its content by the place in `pieces`. */
export interface BlobOfStep {
  channel: string;
  version: string;
  piece: number;
}

export interface TaskOfStep {
  taskId: string;
  writes: { channel: string; piece: number }[];
}

/** All that a thread holds at its checkpoint number `n`, the first being 0. */
export interface Step {
  checkpointId: string;
  parentCheckpointId: string | null;
  checkpoint: Checkpoint;
  metadata: CheckpointMetadata;
  /** What the put of this step stores. */
  fresh: BlobOfStep[];
  /** What a reader of the checkpoint gets. */
  current: BlobOfStep[];
  tasks: TaskOfStep[];
}

export const WRITES_PER_TASK = 3;
export const TYPE = 'bytes';
const CHECKPOINT_ID = '1f1e6699-fe2a-60d0-8000-';
const TASK_ID = '9f17b764-3c6c-4a66-8000-';
const ID_DIGITS = 12;
const VERSION_DIGITS = 32;
const VERSION_TAIL = '.0.41224934029219507';
/** `format` of Postgres fills them in as `fillIn` does. */
export const METADATA_TEMPLATE = '{"source":"loop","step":%1$s,"parents":{}}';
export const METADATA_FILTER = { source: 'loop' };

/** Channels that get their blobs at the same steps are a group. */
const groupsOf = ({ channels, freshChannels }: Shape) => channels / freshChannels;

/** A checkpoint as LangGraph writes it: %1$s is its id, each further one the version of a group of channels. */
export function checkpointTemplate(shape: Shape): string {
  const versions = Array.from({ length: shape.channels }, (_, channel) => [
    `channel-${channel}`,
    `%${2 + Math.floor(channel / shape.freshChannels)}$s${VERSION_TAIL}`,
  ]);
  return JSON.stringify({
    v: 4,
    ts: '2026-11-22T11:41:15.358005+00:00',
    id: '%1$s',
    channel_values: {},
    channel_versions: Object.fromEntries(versions) as object,
    versions_seen: { __input__: {}, model: Object.fromEntries(versions.slice(0, 2)) as object },
    updated_channels: versions.slice(0, shape.freshChannels).map(([channel]) => channel),
  });
}

/** The steps of a shape, each made once. */
export function stepsOf(shape: Shape): (n: number) => Step {
  const known = new Map<number, Step>();
  return (n) => remembered(known, n, () => step(shape, n));
}

/** The value of `n`, made when it is asked for first. */
export function remembered<T>(known: Map<number, T>, n: number, make: () => T): T {
  let value = known.get(n);
  if (value === undefined) known.set(n, (value = make()));
  return value;
}

function step(shape: Shape, n: number): Step {
  const groups = groupsOf(shape);
  const blobsOf = (at: number) =>
    Array.from({ length: shape.freshChannels }, (_, i) => ({
      channel: `channel-${(at % groups) * shape.freshChannels + i}`,
      version: padded(Math.floor(at / groups) + 1, VERSION_DIGITS) + VERSION_TAIL,
      piece: (at * shape.freshChannels + i) % pieceCount(shape.blobBytes),
    }));
  const recent = Array.from({ length: groups }, (_, back) => n - back).filter((at) => at >= 0);
  const versions = Array.from({ length: groups }, (_, group) =>
    padded(Math.floor((n - group + groups) / groups), VERSION_DIGITS),
  );
  const checkpointId = CHECKPOINT_ID + padded(n, ID_DIGITS);
  return {
    checkpointId,
    parentCheckpointId: n === 0 ? null : CHECKPOINT_ID + padded(n - 1, ID_DIGITS),
    checkpoint: JSON.parse(fillIn(checkpointTemplate(shape), [checkpointId, ...versions])) as Checkpoint,
    metadata: JSON.parse(fillIn(METADATA_TEMPLATE, [String(n)])) as CheckpointMetadata,
    fresh: blobsOf(n),
    current: recent.flatMap(blobsOf).toSorted((a, b) => (a.channel < b.channel ? -1 : 1)),
    tasks: Array.from({ length: shape.tasks }, (_, task) => ({
      taskId: TASK_ID + padded(n * shape.tasks + task, ID_DIGITS),
      writes: Array.from({ length: WRITES_PER_TASK }, (_, idx) => ({
        channel: `channel-${idx}`,
        piece: ((n * shape.tasks + task) * WRITES_PER_TASK + idx) % pieceCount(shape.blobBytes),
      })),
    })),
  };
}

/** The formulas of `step` in SQL, of the integer expressions `n`, `i` (blob or write) and `task`. */
export function stepSql(shape: Shape, n: string) {
  const groups = groupsOf(shape);
  const digits = (value: string, length: number) => `lpad((${value})::text, ${length}, '0')`;
  const checkpointId = (at: string) => `'${CHECKPOINT_ID}' || ${digits(at, ID_DIGITS)}`;
  const versions = Array.from({ length: groups }, (_, group) =>
    digits(`(${n} - ${group} + ${groups}) / ${groups}`, VERSION_DIGITS),
  );
  return {
    checkpointId: checkpointId(n),
    parentCheckpointId: `case when ${n} > 0 then ${checkpointId(`${n} - 1`)} end`,
    checkpoint: (template: string) =>
      `format(${template}, ${[checkpointId(n), ...versions].join(', ')})::jsonb`,
    metadata: (template: string) => `format(${template}, ${n})::jsonb`,
    channel: (i: string) => `'channel-' || (${n} % ${groups}) * ${shape.freshChannels} + ${i}`,
    version: `${digits(`${n} / ${groups} + 1`, VERSION_DIGITS)} || '${VERSION_TAIL}'`,
    blobPiece: (i: string) => `(${n} * ${shape.freshChannels} + ${i}) % ${pieceCount(shape.blobBytes)}`,
    taskId: (task: string) => `'${TASK_ID}' || ${digits(`${n} * ${shape.tasks} + ${task}`, ID_DIGITS)}`,
    writePiece: (task: string, i: string) =>
      `((${n} * ${shape.tasks} + ${task}) * ${WRITES_PER_TASK} + ${i}) % ${pieceCount(shape.blobBytes)}`,
  };
}

/** Few when they are large. */
const pieceCount = (blobBytes: number) => (blobBytes > 100_000 ? 2 : 64);

/** The contents of blobs; a write holds the first `writeBytes` of one. The same in every process. */
export function pieces(blobBytes: number): Buffer[] {
  return Array.from({ length: pieceCount(blobBytes) }, (_, piece) => text(blobBytes, piece + 1));
}

const PERIOD_BYTES = 300_000;
const VOCABULARY = 1000;

/**
 * Text as messages hold it: words, the common ones more often, and ids that do not compress. It repeats itself only after a
 * longer way than Postgres's compressions look back (pglz 4 KB, lz4 64 KB).
 */
function text(bytes: number, seed: number): Buffer {
  const random = randomNumbers(seed);
  let period = '';
  while (period.length < Math.min(bytes, PERIOD_BYTES)) {
    const word = Math.floor(VOCABULARY * random() ** 3);
    const letters = randomNumbers(word);
    for (let length = 2 + (word % 9); length > 0; length -= 1) {
      period += 'eeeettaaooiinnsshhrrddlluucmwfgypbvk'.charAt(Math.floor(36 * letters()));
    }
    period += random() < 0.01 ? `. ${Math.floor(random() * 2 ** 32).toString(16)} ` : ' ';
  }
  return Buffer.alloc(bytes, period.slice(0, bytes));
}

/** The generator "mulberry32". */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function newThreads(count: number): string[] {
  return Array.from({ length: count }, () => randomUUID()).toSorted();
}

function fillIn(template: string, values: string[]): string {
  return template.replaceAll(/%(\d)\$s/g, (_, place: string) => values[Number(place) - 1] ?? '');
}

function padded(value: number, digits: number): string {
  return String(value).padStart(digits, '0');
}
