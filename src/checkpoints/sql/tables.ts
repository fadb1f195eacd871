import type { DataSource, EntityTarget, ObjectLiteral } from 'typeorm';
import { CheckpointBlobEntity } from '../entities/checkpoint-blob.entity.js';
import { CheckpointDeltaEntity } from '../entities/checkpoint-delta.entity.js';
import { CheckpointWriteEntity } from '../entities/checkpoint-write.entity.js';
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
  const name = (entity: EntityTarget<ObjectLiteral>) => {
    const { schema, tableName } = dataSource.getMetadata(entity);
    return `"${schema ?? 'public'}".${tableName}`;
  };
  return {
    checkpoints: name(CheckpointEntity),
    blobs: name(CheckpointBlobEntity),
    writes: name(CheckpointWriteEntity),
    deltas: name(CheckpointDeltaEntity),
  };
}

/** SQL: the thread is one of the tenant's. Collation C is that of the tables that we made, whose indexes then serve. */
export function isOfTenant({ tenant }: TenantThreads, bind: (value: string) => string): string {
  const { first, end } = rangeOf(tenant);
  const isInRange = `(thread_id collate "C" >= ${bind(first)} and thread_id collate "C" < ${bind(end)})`;
  return tenant === '' ? `not ${isInRange}` : isInRange;
}
