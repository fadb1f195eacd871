import type { Client } from 'pg';
import type { StoredThreadId } from '../domain/tenant.js';

const BATCH = 500;

/** Rows of a table, by a condition in SQL. */
export interface Rows {
  table: string;
  condition: string;
}

/**
 * The threads that have such rows in any of the tables. One table after the other, since those of an adopted database order ids by
 * its locale and ours byte by byte. `values` are those of the conditions, from `$2` on.
 */
export async function* threadsWith(
  client: Client,
  tables: Rows[],
  values: unknown[],
): AsyncGenerator<StoredThreadId> {
  for (const [at, { table, condition }] of tables.entries()) {
    const isKnown = tables
      .slice(0, at)
      .map((before) => `exists (select from ${before.table} where thread_id = t.id and ${before.condition})`);
    const sql = `
      select id, ${isKnown.length === 0 ? 'false' : isKnown.join(' or ')} as is_known
        from (select distinct thread_id as id
                from ${table}
               where thread_id > $1 and ${condition}
               order by thread_id
               limit ${BATCH}) as t`;
    for (let last = ''; ;) {
      const { rows } = await client.query<{ id: StoredThreadId; is_known: boolean }>(sql, [last, ...values]);
      for (const { id, is_known: isGiven } of rows) if (!isGiven) yield id;
      if (rows.length < BATCH) break;
      last = rows.at(-1)?.id ?? '';
    }
  }
}
