import type { Client } from 'pg';
import type { StoredThreadId } from '../domain/tenant.js';

const BATCH = 500;

/** Rows of a table, by a condition in SQL. */
export interface Rows {
  table: string;
  condition: string;
}

/**
 * The threads that have such rows in any of the tables, each once, also when it is stored anew meanwhile: their ids are kept, some 100 bytes
 * each. One table after the other, since those of an adopted database order ids by its locale and ours byte by byte. `values` are
 * those of the conditions, from `$2` on.
 */
export async function* threadsWith(
  client: Client,
  tables: Rows[],
  values: unknown[],
): AsyncGenerator<StoredThreadId> {
  const given = new Set<StoredThreadId>();
  for (const { table, condition } of tables) {
    const sql = `
      select distinct thread_id as id
        from ${table}
       where thread_id > $1 and ${condition}
       order by thread_id
       limit ${BATCH}`;
    for (let last = ''; ;) {
      const { rows } = await client.query<{ id: StoredThreadId }>(sql, [last, ...values]);
      for (const { id } of rows) {
        if (given.has(id)) continue;
        given.add(id);
        yield id;
      }
      if (rows.length < BATCH) break;
      last = rows.at(-1)?.id ?? '';
    }
  }
}
