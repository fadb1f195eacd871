/**
 * E, the yardstick: the operations that are measured, as lean as `node:http` and `pg` allow while the answers are those of
 * the contract. One named statement per operation; no validation, no limits, no retries. DATABASE_URL in, its own URL out.
 */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import pg from 'pg';
import { remembered } from './payload.js';
import { getTupleSql, putSql, putWritesSql } from './statements.js';

interface Key {
  thread_id: string;
  checkpoint_ns?: string;
  checkpoint_id: string;
}

interface GetTuple {
  thread_id: string;
  checkpoint_ns?: string;
  checkpoint_id?: string | null;
}

interface Put extends Key {
  parent_checkpoint_id?: string | null;
  checkpoint: object;
  metadata?: object;
  blobs?: { channel: string; version: string; type: string; blob: string | null }[];
}

interface PutWrites extends Key {
  writes: { task_id: string; idx: number; channel: string; type: string; blob: string; task_path?: string }[];
  upsert?: boolean;
}

interface List {
  thread_id: string;
  checkpoint_ns?: string | null;
  before_checkpoint_id?: string | null;
  filter_metadata?: object | null;
  limit?: number;
}

interface Answer {
  status: number;
  /** JSON; empty for 204. */
  text: string;
  cursor?: string;
}

const NO_CONTENT: Answer = { status: 204, text: '' };
const GET_LATEST = getTupleSql('$1', '$2', null);
const GET_ONE = getTupleSql('$1', '$2', '$3');
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 10 });
pool.on('error', () => undefined); // the server stops before this process does

async function query(name: string, text: string, values: unknown[]): Promise<(string | null)[][]> {
  return (await pool.query({ name, text, values, rowMode: 'array' })).rows as (string | null)[][];
}

/** The text of a statement for each number of rows, made once. */
function perCount(make: (count: number) => string): (count: number) => string {
  const known = new Map<number, string>();
  return (count) => remembered(known, count, () => make(count));
}

/** The parameters of `count` rows that begin with `shared` and go on with `columns` of their own, from $`first` on. */
function parameters(count: number, shared: string[], first: number, columns: number): string[][] {
  return Array.from({ length: count }, (_, row) => [
    ...shared,
    ...Array.from({ length: columns }, (_, column) => `$${first + row * columns + column}`),
  ]);
}

const PUT = perCount((count) =>
  putSql(['$1', '$2', '$3', '$4', '$5', '$6'], parameters(count, ['$1', '$2'], 7, 4)),
);
const INSERT = perCount((count) => putWritesSql(parameters(count, ['$1', '$2', '$3'], 4, 6), false));
const UPSERT = perCount((count) => putWritesSql(parameters(count, ['$1', '$2', '$3'], 4, 6), true));

async function put(body: Put): Promise<Answer> {
  const { thread_id, checkpoint_ns = '', checkpoint_id, parent_checkpoint_id = null, blobs = [] } = body;
  const values: unknown[] = [thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id];
  values.push(JSON.stringify(body.checkpoint), JSON.stringify(body.metadata ?? {}));
  for (const { channel, version, type, blob } of blobs) {
    values.push(channel, version, type, blob === null ? null : Buffer.from(blob, 'base64'));
  }
  await query(`put-${blobs.length}`, PUT(blobs.length), values);
  return { status: 200, text: JSON.stringify({ thread_id, checkpoint_ns, checkpoint_id }) };
}

async function putWrites(body: PutWrites): Promise<Answer> {
  const { thread_id, checkpoint_ns = '', checkpoint_id, writes, upsert = false } = body;
  if (writes.length === 0) return NO_CONTENT;
  const values: unknown[] = [thread_id, checkpoint_ns, checkpoint_id];
  for (const { task_id, idx, channel, type, blob, task_path = '' } of writes) {
    values.push(task_id, idx, channel, type, Buffer.from(blob, 'base64'), task_path);
  }
  await query(
    `${upsert ? 'upsert' : 'insert'}-${writes.length}`,
    (upsert ? UPSERT : INSERT)(writes.length),
    values,
  );
  return NO_CONTENT;
}

async function getTuple({ thread_id, checkpoint_ns = '', checkpoint_id }: GetTuple): Promise<Answer> {
  const isLatest = checkpoint_id === undefined || checkpoint_id === null || checkpoint_id === '';
  const [checkpoint, ...rows] = isLatest
    ? await query('get-latest', GET_LATEST, [thread_id, checkpoint_ns])
    : await query('get-one', GET_ONE, [thread_id, checkpoint_ns, checkpoint_id]);
  if (checkpoint === undefined) return { status: 200, text: 'null' };
  const blobs: string[] = [];
  const writes: string[] = [];
  for (const [kind, a, b, c, d, e] of rows) {
    if (kind === 'blob') {
      blobs.push(
        `{"channel":${quoted(a)},"version":${quoted(b)},"type":${quoted(c)},"blob":${quotedBase64(d)}}`,
      );
    } else {
      writes.push(
        `{"task_id":${quoted(a)},"idx":${b ?? ''},"channel":${quoted(c)},"type":${quoted(d)},"blob":${quotedBase64(e)}}`,
      );
    }
  }
  const text = `${item(checkpoint.slice(1))},"blobs":[${blobs.join()}],"pending_writes":[${writes.join()}]}`;
  return { status: 200, text };
}

async function list(body: List): Promise<Answer> {
  const limit = body.limit ?? 1000;
  const values: unknown[] = [body.thread_id, limit + 1];
  let conditions = '';
  const only = (condition: string, value: unknown) => {
    if (value !== undefined && value !== null) conditions += ` and ${condition} $${values.push(value)}`;
  };
  only('checkpoint_ns =', body.checkpoint_ns);
  only('checkpoint_id <', body.before_checkpoint_id);
  only('metadata @>', body.filter_metadata && JSON.stringify(body.filter_metadata));
  const rows = await query(
    `list${conditions}`,
    // ::text outside, or without a namespace the generic plan takes another index.
    `select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text, metadata::text
       from (select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
               from checkpoints
              where thread_id = $1 ${conditions}
              order by checkpoint_id desc
              limit $2) as page`,
    values,
  );
  const text = `[${rows
    .slice(0, limit)
    .map((row) => `${item(row)}}`)
    .join()}]`;
  if (rows.length <= limit) return { status: 200, text };
  const cursor = Buffer.from(JSON.stringify(rows[limit - 1]?.slice(0, 3))).toString('base64url');
  return { status: 200, text, cursor };
}

async function deleteThread(body: { thread_id: string }): Promise<Answer> {
  await query(
    'delete-thread',
    `with deleted_blobs as (delete from checkpoint_blobs where thread_id = $1),
          deleted_writes as (delete from checkpoint_writes where thread_id = $1)
     delete from checkpoints where thread_id = $1`,
    [body.thread_id],
  );
  return NO_CONTENT;
}

/** The fields of a tuple that `list` gives too, without the closing brace. */
function item([threadId, checkpointNs, checkpointId, parent, checkpoint, metadata]: (
  string | null
)[]): string {
  return (
    `{"thread_id":${quoted(threadId)},"checkpoint_ns":${quoted(checkpointNs)},"checkpoint_id":${quoted(checkpointId)},` +
    `"parent_checkpoint_id":${quoted(parent)},"checkpoint":${checkpoint},"metadata":${metadata}`
  );
}

function quoted(text: string | null | undefined): string {
  return JSON.stringify(text ?? null);
}

/** Postgres breaks Base64 into lines. */
function quotedBase64(text: string | null | undefined): string {
  return text === null || text === undefined ? 'null' : `"${text.replaceAll('\n', '')}"`;
}

const OPERATIONS = new Map<string | undefined, (body: never) => Promise<Answer>>([
  ['/checkpoints/put', put],
  ['/checkpoints/put-writes', putWrites],
  ['/checkpoints/get-tuple', getTuple],
  ['/checkpoints/list', list],
  ['/checkpoints/delete-thread', deleteThread],
]);

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    void answer(request.url, Buffer.concat(chunks)).then((given) => {
      send(response, given);
    });
  });
});

async function answer(url: string | undefined, body: Buffer): Promise<Answer> {
  const operation = OPERATIONS.get(url);
  if (operation === undefined) return { status: 404, text: '{}' };
  try {
    return await operation(JSON.parse(body.toString()) as never);
  } catch (error) {
    return { status: 500, text: JSON.stringify(String(error)) };
  }
}

function send(response: ServerResponse, { status, text, cursor }: Answer): void {
  if (status === 204) {
    response.writeHead(204).end();
    return;
  }
  const body = Buffer.from(text);
  const headers = { 'content-type': 'application/json', 'content-length': body.length };
  response.writeHead(status, cursor === undefined ? headers : { ...headers, 'x-next-cursor': cursor });
  response.end(body);
}

server.listen(0, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});
