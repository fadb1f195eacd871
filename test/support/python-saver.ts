import { readFileSync } from 'node:fs';
import {
  INSERT_CHECKPOINT_WRITES_2_0_0_SQL,
  INSERT_CHECKPOINT_WRITES_SQL,
  MIGRATIONS,
  SELECT_SQL,
  UPSERT_CHECKPOINT_BLOBS_SQL,
  UPSERT_CHECKPOINT_WRITES_2_0_0_SQL,
  UPSERT_CHECKPOINT_WRITES_SQL,
  UPSERT_CHECKPOINTS_SQL,
} from '../fixtures/python-saver.js';
import type { Answer } from './app.js';
import type { TestDatabase } from './database.js';

type Sql = TestDatabase['sql'];

interface SentBlob {
  channel: string;
  version: string;
  type: string;
  blob: string | null;
}

interface SentWrite {
  task_id: string;
  task_path: string;
  idx: number;
  channel: string;
  type: string;
  blob: string;
}

interface SentPut {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: object;
  metadata: object;
  blobs: SentBlob[];
}

interface SentPutWrites {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  writes: SentWrite[];
  upsert: boolean;
}

/** What real Python agents stored on two threads, in their order; the second has a subgraph, a fan-out and a resume. */
export const PYTHON_THREADS = ['capture-agent-1', 'capture-fanout-1'];
export const PYTHON_REQUESTS = readFileSync(
  new URL('../fixtures/agentex-langgraph.ndjson', import.meta.url),
  'utf8',
)
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as { path: string; request: string })
  .map(({ path, request }) => ({
    operation: path.replace('/checkpoints/', ''),
    body: JSON.parse(request) as SentPut | SentPutWrites,
  }))
  .filter(({ operation, body }) => {
    return ['put', 'put-writes'].includes(operation) && PYTHON_THREADS.includes(body.thread_id);
  });

/** psycopg's parameters, numbered as pg wants them. */
function numbered(statement: string): string {
  let n = 0;
  return statement.replaceAll('%s', () => `$${(n += 1)}`);
}

/** PostgresSaver.setup() of a release whose last migration is `last`; returns the versions that it ran. */
export async function pythonSetup(sql: Sql, last = MIGRATIONS.length - 1): Promise<number[]> {
  await sql(MIGRATIONS[0]!);
  const [row] = await sql<{ v: number }>('SELECT v FROM checkpoint_migrations ORDER BY v DESC LIMIT 1');
  const ran: number[] = [];
  for (let v = (row?.v ?? -1) + 1; v <= last; v += 1) {
    await sql(MIGRATIONS[v]!);
    await sql(numbered('INSERT INTO checkpoint_migrations (v) VALUES (%s)'), [v]);
    ran.push(v);
  }
  return ran;
}

/** Stores what the agents stored, as the saver of that version would have; a table that came later gets nothing. */
export async function storeAsPythonSaver(sql: Sql, version: number): Promise<void> {
  for (const { body } of PYTHON_REQUESTS) {
    if ('checkpoint' in body) await put(sql, version, body);
    else await putWrites(sql, version, body);
  }
}

async function put(sql: Sql, version: number, body: SentPut): Promise<void> {
  const { thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata } = body;
  for (const { channel, version: of, type, blob } of version >= 2 ? body.blobs : []) {
    await sql(numbered(UPSERT_CHECKPOINT_BLOBS_SQL), [
      ...[thread_id, checkpoint_ns, channel, of, type],
      blob === null ? null : Buffer.from(blob, 'base64'),
    ]);
  }
  if (version < 1) return;
  await sql(numbered(UPSERT_CHECKPOINTS_SQL), [
    ...[thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata],
  ]);
}

async function putWrites(sql: Sql, version: number, body: SentPutWrites): Promise<void> {
  const { thread_id, checkpoint_ns, checkpoint_id, writes, upsert } = body;
  const current = upsert ? UPSERT_CHECKPOINT_WRITES_SQL : INSERT_CHECKPOINT_WRITES_SQL;
  const former = upsert ? UPSERT_CHECKPOINT_WRITES_2_0_0_SQL : INSERT_CHECKPOINT_WRITES_2_0_0_SQL;
  for (const { task_id, task_path, idx, channel, type, blob } of version >= 3 ? writes : []) {
    await sql(numbered(version >= 9 ? current : former), [
      ...[thread_id, checkpoint_ns, checkpoint_id, task_id],
      ...(version >= 9 ? [task_path] : []),
      ...[idx, channel, type, Buffer.from(blob, 'base64')],
    ]);
  }
}

interface SelectedRow {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: object;
  metadata: object;
  channel_values: (Buffer | null)[][] | null;
  pending_writes: Buffer[][] | null;
}

/** A checkpoint as the saver gets it from Postgres, before it decodes the bytes. */
export interface PythonTuple {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: object;
  metadata: object;
  /** channel, type, bytes */
  values: (string | null)[][];
  /** task, channel, type, bytes, path, index */
  writes: string[][];
}

/** Everything that the saver's own SELECT finds, newest first. */
export async function readAsPythonSaver(sql: Sql, threadId: string): Promise<PythonTuple[]> {
  const rows = await sql<SelectedRow>(
    `${numbered(`${SELECT_SQL} WHERE thread_id = %s`)} ORDER BY checkpoint_id DESC`,
    [threadId],
  );
  return rows.map(({ channel_values: values, pending_writes: writes, ...checkpoint }) => ({
    ...checkpoint,
    values: inOrder(
      (values ?? []).map(([channel, type, blob]) => [String(channel), String(type), hex(blob ?? null)]),
    ),
    writes: inOrder(
      (writes ?? []).map(([task, channel, type, blob, path, idx]) => [
        ...[String(task), String(channel), String(type), hex(blob!)!, String(path), String(idx)],
      ]),
    ),
  }));
}

/** The answer to a `get-tuple` that includes blobs and pending writes, as the saver would have got it from Postgres. */
export function asPythonTuple({
  json: { blobs, pending_writes: writes, ...checkpoint },
}: Answer): PythonTuple {
  return {
    ...checkpoint,
    values: inOrder(
      (blobs as SentBlob[]).map(({ channel, type, blob }) => [channel, type, hex(fromBase64(blob))]),
    ),
    writes: inOrder(
      (writes as SentWrite[]).map(({ task_id, channel, type, blob, task_path, idx }) => [
        ...[task_id, channel, type, hex(fromBase64(blob))!, task_path, String(idx)],
      ]),
    ),
  };
}

function fromBase64(text: string | null): Buffer | null {
  return text === null ? null : Buffer.from(text, 'base64');
}

function hex(bytes: Buffer | null): string | null {
  return bytes === null ? null : bytes.toString('hex');
}

/** The saver asks for no order of either. */
function inOrder<Row extends (string | null)[]>(rows: Row[]): Row[] {
  return rows.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}
