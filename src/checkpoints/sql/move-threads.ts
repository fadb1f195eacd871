import type { Client } from 'pg';
import { sqlStateOf } from '../../database/faults.js';
import { isOfTenant } from './tables.js';
import { callersThreadId, rangeOf, storedThreadId, type StoredThreadId } from '../domain/tenant.js';
import { threadsWith } from './thread-ids.js';
import { withThreads } from './thread-turn.js';

/** Logs first: a place is stored only where its record is. */
const TABLES = ['checkpoint_deltas', 'checkpoints', 'checkpoint_blobs', 'checkpoint_writes'] as const;
const TAKEN = 'the tenant has a thread of that id';
/** By the code of Postgres. */
const REFUSALS = new Map([
  ['23505', TAKEN],
  ['54000', 'its keys would be too long'],
  ['55P03', 'others use it all the time'],
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
    `select case when thread_id like $1 then pg_catalog.split_part(thread_id, $2, 2) else '' end as tenant, pg_catalog.count(*)::int as threads
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

/** Those that there are. */
function threadsOf(client: Client, schema: string, { from, threads }: Move): AsyncGenerator<StoredThreadId> {
  const values: unknown[] = [];
  const bind = (value: unknown) => `$${values.push(value) + 1}`;
  const isSelected =
    'ids' in threads
      ? `thread_id = any(${bind(threads.ids.map((id) => storedThreadId(from, id)))})`
      : `pg_catalog.substr(thread_id, ${(storedThreadId(from, '') ?? '').length + 1}) like ${bind(threads.like)}`;
  const condition = `${isOfTenant({ tenant: from }, bind)} and ${isSelected}`;
  return threadsWith(
    client,
    TABLES.map((table) => ({ table: `"${schema}".${table}`, condition })),
    values,
  );
}

async function moveThread(
  client: Client,
  schema: string,
  source: StoredThreadId,
  target: StoredThreadId,
): Promise<{ rows: number; refused: string | null }> {
  try {
    const rows = await withThreads(client, [source, target], () => moveRows(client, schema, source, target));
    return { rows, refused: null };
  } catch (error) {
    const refused = error instanceof RefusedError ? error.message : REFUSALS.get(sqlStateOf(error) ?? '');
    if (refused === undefined) throw error;
    return { rows: 0, refused };
  }
}

/** One table after the other, in the order in which a put locks the rows of a thread. */
async function moveRows(
  client: Client,
  schema: string,
  source: StoredThreadId,
  target: StoredThreadId,
): Promise<number> {
  const there = await client.query<{ thread_id: string }>(idsIn(schema, 'thread_id = any($1)'), [
    [source, target],
  ]);
  const ids = there.rows.map((row) => row.thread_id);
  // It may have gone meanwhile, also by another command like this.
  if (!ids.includes(source)) return 0;
  if (ids.includes(target)) throw new RefusedError(TAKEN);
  let moved = 0;
  let found = 0;
  for (const table of TABLES) {
    const { rowCount } = await client.query(
      `update "${schema}".${table} set thread_id = $2 where thread_id = $1`,
      [source, target],
    );
    moved += rowCount ?? 0;
  }
  // LangGraph's own savers take no lock on threads: what they stored in the target meanwhile is another thread's.
  for (const table of TABLES) {
    const { rows } = await client.query<{ n: string }>(
      `select pg_catalog.count(*) as n from "${schema}".${table} where thread_id = $1`,
      [target],
    );
    found += Number(rows[0]?.n);
  }
  if (found !== moved) throw new RefusedError(TAKEN);
  return moved;
}

class RefusedError extends Error {}

/** SQL: the ids of threads that have rows in any table. */
function idsIn(schema: string, condition: string): string {
  return TABLES.map((table) => `select thread_id from "${schema}".${table} where ${condition}`).join(
    ' union ',
  );
}
