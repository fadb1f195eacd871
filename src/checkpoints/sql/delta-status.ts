import type { Client } from 'pg';
import { rangeOf, type StoredThreadId, storedThreadId } from '../domain/tenant.js';
import { bytesOfValue, isPlace } from './log-records.js';
import { isOfTenant, type Tables } from './tables.js';
import { type Rows, threadsWith } from './thread-ids.js';

/** Which threads: all, those of a tenant, or some of its. */
export interface Selection {
  tenant: string | null;
  ids: string[];
}

/** What a tenant has in logs. */
export interface DeltaStatus {
  tenant: string;
  /** That have values in logs. */
  threads: number;
  /** Values that are in logs. */
  blobs: number;
  writes: number;
  logs: number;
  records: number;
  record_bytes: number;
  /** Of the values. */
  value_bytes: number;
}

/** Reads every row of the threads, but no value that is stored whole. Numbers are exact up to 9 PB. */
export async function statusOf(client: Client, tables: Tables, selection: Selection): Promise<DeltaStatus[]> {
  const values: unknown[] = [`${rangeOf('').first}%`, rangeOf('').first];
  const selected = conditionOf(selection, (value) => `$${values.push(value)}`);
  const placed = (table: string, blobs: number, writes: number) => `
    select thread_id, ${blobs} as blobs, ${writes} as writes, 0 as logs, 0 as records, 0 as record_bytes,
           ${bytesOfValue('type', 'blob')} as value_bytes
      from ${table}
     where ${isPlace('type')} and ${selected}`;
  const { rows } = await client.query<DeltaStatus>(
    `select tenant, pg_catalog.count(distinct thread_id) filter (where blobs + writes > 0)::float8 as threads,
            ${['blobs', 'writes', 'logs', 'records', 'record_bytes', 'value_bytes'].map((column) => `pg_catalog.sum(${column})::float8 as ${column}`).join(', ')}
       from (select case when thread_id like $1 then pg_catalog.split_part(thread_id, $2, 2) else '' end as tenant, s.*
               from (${placed(tables.blobs, 1, 0)}
                     union all
                     ${placed(tables.writes, 0, 1)}
                     union all
                    select thread_id, 0, 0, case when at = 0 then 1 else 0 end, 1, pg_catalog.octet_length(delta), 0
                      from ${tables.deltas}
                     where ${selected}) as s) as of_tenants
      group by tenant
      order by tenant`,
    values,
  );
  return rows;
}

/** Threads that have values or logs. */
export function threadsInLogs(
  client: Client,
  tables: Tables,
  selection: Selection,
): AsyncGenerator<StoredThreadId> {
  const placed = (table: string) => ({ table, condition: isPlace('type') });
  return selectedThreads(client, selection, [
    { table: tables.deltas, condition: 'true' },
    placed(tables.blobs),
    placed(tables.writes),
  ]);
}

/** Threads that have checkpoints. */
export function threadsOf(
  client: Client,
  tables: Tables,
  selection: Selection,
): AsyncGenerator<StoredThreadId> {
  return selectedThreads(client, selection, [{ table: tables.checkpoints, condition: 'true' }]);
}

function selectedThreads(client: Client, selection: Selection, rows: Rows[]): AsyncGenerator<StoredThreadId> {
  const values: unknown[] = [];
  const selected = conditionOf(selection, (value) => `$${values.push(value) + 1}`);
  return threadsWith(
    client,
    rows.map(({ table, condition }) => ({ table, condition: `${condition} and ${selected}` })),
    values,
  );
}

function conditionOf({ tenant, ids }: Selection, bind: (value: unknown) => string): string {
  if (ids.length > 0) return `thread_id = any(${bind(ids.map((id) => storedThreadId(tenant ?? '', id)))})`;
  return tenant === null ? 'true' : isOfTenant({ tenant }, bind);
}
