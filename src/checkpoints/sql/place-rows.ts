import type { Client } from 'pg';
import type { StoredThreadId } from '../domain/tenant.js';
import { isPlace, logOfPlace } from './log-records.js';
import { byteaArray, textArray } from './postgres-array.js';
import { anyOf, type Tables } from './tables.js';

/** What a blob or a write is stored as is changed here, never what its value is. */

/** A blob or a write of a thread, as it was read. */
export interface PlaceRow {
  table: 'blobs' | 'writes';
  ns: string;
  /** Channel and version, or id of the checkpoint, task and index. */
  key: string[];
  /** Every change of the row, whoever makes it, gives it another one. */
  xmin: string;
}

/** What a row is stored as. */
export interface Stored {
  type: string;
  blob: Buffer;
}

/** SQL: the key of a row, as texts. */
export function keyOf(table: PlaceRow['table']): string {
  return table === 'blobs' ? 'array[channel, version]' : 'array[checkpoint_id, task_id, idx::text]';
}

/** SQL: the row `t` has that key. */
export function hasKey(table: PlaceRow['table'], [first, second, third]: [string, string, string]): string {
  return table === 'blobs'
    ? `t.channel = ${first} and t.version = ${second}`
    : `t.checkpoint_id = ${first} and t.task_id = ${second} and t.idx = ${third}::int`;
}

/** Stores the rows of the thread anew that are as they were read. Returns how many. */
export async function restore(
  client: Client,
  tables: Tables,
  threadId: StoredThreadId,
  rows: (PlaceRow & Stored)[],
): Promise<number> {
  let restored = 0;
  for (const table of ['blobs', 'writes'] as const) {
    const own = rows.filter((row) => row.table === table);
    if (own.length === 0) continue;
    const { rowCount } = await client.query(
      `update ${tables[table]} as t
          set type = v.type, blob = v.blob
         from rows from (${['text', 'text', 'text', 'text', 'text', 'text', 'bytea'].map((type, at) => `pg_catalog.unnest($${at + 2}::${type}[])`).join(', ')})
              as v (ns, first, second, third, xmin, type, blob)
        where t.thread_id = $1 and t.checkpoint_ns = v.ns and ${hasKey(table, ['v.first', 'v.second', 'v.third'])} and t.xmin::text = v.xmin`,
      [
        threadId,
        textArray(own.map(({ ns }) => ns)),
        ...[0, 1, 2].map((at) => textArray(own.map(({ key }) => key[at] ?? null))),
        textArray(own.map(({ xmin }) => xmin)),
        textArray(own.map(({ type }) => type)),
        byteaArray(own.map(({ blob }) => blob)),
      ],
    );
    restored += rowCount ?? 0;
  }
  return restored;
}

/** A statement that removes, in the threads `$1`, which are locked, the logs that no row names. */
export function deleteUnusedLogs({ blobs, writes, deltas }: Tables): string {
  return `
    delete from ${deltas} d
     using (select thread_id, log
              from (select thread_id, log, false as is_named
                      from ${deltas}
                     where thread_id = ${anyOf('$1')} and at = 0
                     union all
                    select thread_id, ${logOfPlace('blob')}, true
                      from ${blobs}
                     where thread_id = ${anyOf('$1')} and ${isPlace('type')}
                     union all
                    select thread_id, ${logOfPlace('blob')}, true
                      from ${writes}
                     where thread_id = ${anyOf('$1')} and ${isPlace('type')}) as logs
             group by thread_id, log
            having not pg_catalog.bool_or(is_named)) as o
     where d.thread_id = o.thread_id and d.log = o.log`;
}
