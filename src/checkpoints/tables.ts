import type { DataSource, EntityTarget, ObjectLiteral } from 'typeorm';
import { CheckpointBlobEntity } from './entities/checkpoint-blob.entity.js';
import { CheckpointWriteEntity } from './entities/checkpoint-write.entity.js';
import { CheckpointEntity } from './entities/checkpoint.entity.js';

/** The names of the tables in SQL, qualified by DATABASE_SCHEMA. */
export interface Tables {
  checkpoints: string;
  blobs: string;
  writes: string;
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
  };
}
