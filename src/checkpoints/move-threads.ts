import type { Client } from 'pg';
import { sqlStateOf } from '../database/faults.js';
import { isOfTenant } from './tables.js';
import { callersThreadId, rangeOf, storedThreadId, type StoredThreadId } from './tenant.js';

const TABLES = ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes'] as const;
const BATCH = 500;
/** By the code of Postgres. */
const REFUSALS = new Map([
  ['23505', 'the tenant has a thread of that id'],
  ['54000', 'its keys would be too long'],
]);

/** Which of a tenant's threads: those with these ids, those like an SQL pattern, or all. */
export type Selection = { ids: string[] } | { like: string };

export interface Move {
  from: string;
  to: string;
  threads: Selection;
}

/** What became of a thread. */
export interface Moved {
  threadId: string;
  rows: number;
  /** Why it stayed where it was. */
  refused: string | null;
}

/** The threads of each tenant that has any, the default one's first. */
export async function countThreads(
  client: Client,
  schema: string,
): Promise<{ tenant: string; threads: number }[]> {
  const { rows } = await client.query<{ tenant: string; threads: number }>(
    `select case when thread_id like $1 then split_part(thread_id, $2, 2) else '' end as tenant, count(*)::int as threads
       from (${idsIn(schema, 'true')}) as ids
      group by tenant
      order by 1`,
    [`${rangeOf('').first}%`, rangeOf('').first],
  );
  return rows;
}

/**
 * Gives the threads to another tenant, one by one, each with all of its rows or not at all: what was interrupted goes on
 * where it ended when it is begun again. A thread whose id the other tenant uses already stays.
 */
export async function* moveThreads(client: Client, schema: string, move: Move): AsyncGenerator<Moved> {
  for await (const stored of threadsOf(client, schema, move)) {
    const threadId = callersThreadId(stored);
    const target = storedThreadId(move.to, threadId);
    if (target !== null) yield { threadId, ...(await moveThread(client, schema, stored, target)) };
  }
}

/** Those that there are, in the order of an index. */
async function* threadsOf(
  client: Client,
  schema: string,
  { from, threads }: Move,
): AsyncGenerator<StoredThreadId> {
  const values: unknown[] = [''];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const isSelected =
    'ids' in threads
      ? `thread_id = any(${bind(threads.ids.map((id) => storedThreadId(from, id)))})`
      : `substr(thread_id, ${(storedThreadId(from, '') ?? '').length + 1}) like ${bind(threads.like)}`;
  const sql = idsIn(
    schema,
    `thread_id > $1 and ${isOfTenant({ tenant: from }, bind)} and ${isSelected}`,
    `${BATCH}`,
  );
  for (;;) {
    const { rows } = await client.query<{ thread_id: StoredThreadId }>(sql, values);
    for (const row of rows) yield row.thread_id;
    if (rows.length < BATCH) return;
    values[0] = rows.at(-1)?.thread_id;
  }
}

/** One table after the other, in the order in which a put locks the rows of a thread. */
async function moveThread(
  client: Client,
  schema: string,
  source: StoredThreadId,
  target: StoredThreadId,
): Promise<{ rows: number; refused: string | null }> {
  await client.query('begin');
  try {
    const { rows } = await client.query(idsIn(schema, 'thread_id = $1'), [target]);
    if (rows.length > 0) throw new RefusedError('the tenant has a thread of that id');
    let moved = 0;
    for (const table of TABLES) {
      const { rowCount } = await client.query(
        `update "${schema}".${table} set thread_id = $2 where thread_id = $1`,
        [source, target],
      );
      moved += rowCount ?? 0;
    }
    await client.query('commit');
    return { rows: moved, refused: null };
  } catch (error) {
    await client.query('rollback');
    const refused = error instanceof RefusedError ? error.message : REFUSALS.get(sqlStateOf(error) ?? '');
    if (refused === undefined) throw error;
    return { rows: 0, refused };
  }
}

class RefusedError extends Error {}

/** SQL: the ids of threads that have rows in any table, as the columns' collation orders them. */
function idsIn(schema: string, condition: string, limit = 'all'): string {
  const ordered = `order by thread_id limit ${limit}`;
  const each = TABLES.map(
    (table) => `(select distinct thread_id from "${schema}".${table} where ${condition} ${ordered})`,
  );
  return `${each.join(' union ')} ${ordered}`;
}
