import type { DataSource } from 'typeorm';
import { CheckpointEntity } from '../entities/checkpoint.entity.js';
import { type TenantThreads, rangeOf } from '../domain/tenant.js';

/** The names of the tables in SQL, qualified by DATABASE_SCHEMA. */
export interface Tables {
  checkpoints: string;
  blobs: string;
  writes: string;
  deltas: string;
}

export function tablesOf(dataSource: DataSource): Tables {
  return tablesIn(dataSource.getMetadata(CheckpointEntity).schema ?? 'public');
}

export function tablesIn(schema: string): Tables {
  const name = (table: string) => `"${schema}".${table}`;
  return {
    checkpoints: name('checkpoints'),
    blobs: name('checkpoint_blobs'),
    writes: name('checkpoint_writes'),
    deltas: name('checkpoint_deltas'),
  };
}

/**
 * SQL: any of the threads. A subquery, since without statistics, in tables that were just filled, the planner takes 64 ids that
 * it sees for a third of the table, and reads all of it.
 */
export function anyOf(threadIds: string): string {
  return `any(array(select pg_catalog.unnest(${threadIds}::text[])))`;
}

/** SQL: the versions of channels that a document names; null whatever else a client stored as channel_versions. */
export function channelVersions(checkpoint: string): string {
  return `case pg_catalog.jsonb_typeof(${checkpoint} -> 'channel_versions')
            when 'object' then ${checkpoint} -> 'channel_versions' end`;
}

/** SQL: the thread is one of the tenant's. Collation C is that of the tables that we made, whose indexes then serve. */
export function isOfTenant({ tenant }: TenantThreads, bind: (value: string) => string): string {
  const { first, end } = rangeOf(tenant);
  const isInRange = `(thread_id collate "C" >= ${bind(first)} and thread_id collate "C" < ${bind(end)})`;
  return tenant === '' ? `not ${isInRange}` : isInRange;
}
