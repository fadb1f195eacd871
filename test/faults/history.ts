import { createHash } from 'node:crypto';
import { canonical, parseExact } from '../support/exact.js';
import type { Postgres } from './postgres.js';

/**
 * What an agent has stored in a thread, which is all that its memory of it amounts to: contents follow from the thread and
 * the step. `origin` is the thread that it was copied from, else itself.
 */
export interface History {
  threadId: string;
  origin: string;
  steps: number;
  /** `pruned`: the last step is left, without its parent. */
  fate: 'kept' | 'pruned' | 'deleted';
}

interface Blob {
  channel: string;
  version: string;
  type: string;
  blob: string;
}

interface Write {
  task_id: string;
  idx: number;
  channel: string;
  type: string;
  blob: string;
}

export const idOf = (step: number) => `step-${String(step).padStart(6, '0')}`;
const TASKS = ['task-a', 'task-b'];
/** Every so many steps a task's writes are replaced. */
export const REPLACE_EVERY = 3;

/** Between 40 bytes and 6 KB, so that some leave their row. */
function contentOf(...names: unknown[]): string {
  const hash = createHash('sha256').update(names.join('/')).digest();
  return Buffer.concat(Array<Buffer>(1 + ((hash[0] ?? 0) % 190)).fill(hash)).toString('base64');
}

/** The value of a channel that grows, as a conversation does, and is now and then another one. */
function messagesOf(origin: string, step: number): string {
  const parts = Array.from({ length: step % 40 }, (_, n) =>
    Buffer.from(contentOf(origin, step - (step % 40) + n), 'base64').subarray(0, 900),
  );
  return Buffer.concat([Buffer.from([0xdc, 0, step % 40]), ...parts, Buffer.from(`step ${step}`)]).toString(
    'base64',
  );
}

export function putOf({ threadId, origin }: History, step: number) {
  const version = String(step);
  const messages = { channel: 'messages', version, type: 'msgpack', blob: messagesOf(origin, step) };
  const settings = { channel: 'settings', version: '1', type: 'json', blob: contentOf(origin, 'settings') };
  return {
    thread_id: threadId,
    checkpoint_ns: '',
    checkpoint_id: idOf(step),
    parent_checkpoint_id: step === 1 ? null : idOf(step - 1),
    checkpoint: {
      v: 4,
      id: idOf(step),
      channel_values: { note: contentOf(origin, step, 'note').slice(0, 200) },
      channel_versions: { messages: version, settings: '1' },
    },
    metadata: { source: 'loop', step },
    blobs: step === 1 ? [messages, settings] : [messages],
  };
}

export function writesOf({ origin }: History, step: number, task: number, replaced: boolean): Write[] {
  return [0, 1].map((idx) => ({
    task_id: TASKS[task] ?? '',
    idx,
    channel: `channel-${idx}`,
    type: 'msgpack',
    // What is sent to a task holds the state.
    blob:
      idx === 1 && step % 4 === 0 ? messagesOf(origin, step) : contentOf(origin, step, task, idx, replaced),
  }));
}

/** What `get-tuple` is to answer. */
export function tupleOf(history: History, step: number): string {
  const { blobs: own, ...put } = putOf(history, step);
  const first = putOf(history, 1).blobs;
  const blobs = [...own, ...(step === 1 ? [] : first.filter(({ channel }) => channel === 'settings'))];
  const writes = TASKS.flatMap((_, task) =>
    writesOf(history, step, task, task === 0 && step % REPLACE_EVERY === 0),
  );
  const parent = history.fate === 'pruned' ? null : put.parent_checkpoint_id;
  return canonicalTuple({ ...put, parent_checkpoint_id: parent, blobs, pending_writes: writes });
}

/** The same for tuples that say the same; the order of blobs is nobody's promise. */
export function canonicalTuple(tuple: unknown): string {
  const {
    blobs,
    pending_writes: writes,
    ...rest
  } = tuple as {
    blobs: Blob[];
    pending_writes: Write[];
  };
  const sorted = [...blobs].sort((a, b) => (a.channel < b.channel ? -1 : 1));
  const bare = writes.map(({ task_id, idx, channel, type, blob }) => ({ task_id, idx, channel, type, blob }));
  return canonical(parseExact(JSON.stringify({ ...rest, blobs: sorted, pending_writes: bare })));
}

export function stepsOf({ steps, fate }: History): number[] {
  if (fate === 'deleted') return [];
  return fate === 'pruned' ? [steps] : Array.from({ length: steps }, (_, n) => n + 1);
}

/** Every row of the three tables that the history amounts to. */
function rowsOf(history: History): string[] {
  const { threadId } = history;
  const steps = stepsOf(history);
  if (steps.length === 0) return [];
  const blobs = [putOf(history, 1).blobs.at(-1), ...steps.map((step) => putOf(history, step).blobs[0])];
  return [
    ...steps.map((step) => {
      const put = putOf(history, step);
      const parent = history.fate === 'pruned' ? null : put.parent_checkpoint_id;
      return row('checkpoint', threadId, put.checkpoint_id, parent, put.checkpoint, put.metadata);
    }),
    ...blobs.map((blob) => row('blob', threadId, blob?.channel, blob?.version, blob?.type, blob?.blob)),
    ...steps.flatMap((step) =>
      TASKS.flatMap((_, task) =>
        writesOf(history, step, task, task === 0 && step % REPLACE_EVERY === 0).map((write) =>
          row('write', threadId, idOf(step), write.task_id, write.idx, write.channel, write.type, write.blob),
        ),
      ),
    ),
  ];
}

function row(...columns: unknown[]): string {
  return canonical(parseExact(JSON.stringify(columns)));
}

/** What stands for the value of a row that is stored as a delta: its bytes are compared as the service reads them. */
const ELSEWHERE = 'elsewhere';

/** The row as `row` has it, with another value. */
function valueElsewhere(text: string): string {
  return row(...(JSON.parse(text) as unknown[]).slice(0, -1), ELSEWHERE);
}

/** Compares the database with what was acknowledged, row by row. */
export async function compareRows(
  server: Postgres,
  database: string,
  histories: History[],
): Promise<{ rows: number; lost: string[]; strange: string[] }> {
  const expected = new Set(histories.flatMap(rowsOf));
  const values = new Map([...expected].map((text) => [valueElsewhere(text), text]));
  const strange: string[] = [];
  const client = await server.connect(database);
  const threads = [histories.map(({ threadId }) => threadId)];
  let rows = 0;
  for (const sql of [
    `select 'checkpoint', thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
       from checkpoints where thread_id = any($1)`,
    `select 'blob', thread_id, channel, version, type, translate(encode(blob, 'base64'), E'\\n', '')
       from checkpoint_blobs where thread_id = any($1)`,
    `select 'write', thread_id, checkpoint_id, task_id, idx, channel, type, translate(encode(blob, 'base64'), E'\\n', '')
       from checkpoint_writes where thread_id = any($1)`,
  ]) {
    const found = await client.query<unknown[]>({ text: sql, values: threads, rowMode: 'array' });
    rows += found.rows.length;
    for (const columns of found.rows) {
      const type = String(columns.at(-2));
      const isDelta = type.startsWith('delta+');
      if (isDelta) columns.splice(-2, 2, type.slice('delta+'.length), ELSEWHERE);
      const text = row(...columns);
      if (!expected.delete(isDelta ? (values.get(text) ?? '') : text)) strange.push(text);
    }
  }
  await client.end();
  return { rows, lost: [...expected], strange };
}
