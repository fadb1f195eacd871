import 'reflect-metadata';
import { DataSource } from 'typeorm';
import { ApiKeyEntity } from './src/auth/entities/api-key.entity.js';
import { CheckpointBlobEntity } from './src/checkpoints/entities/checkpoint-blob.entity.js';
import { CheckpointDeltaEntity } from './src/checkpoints/entities/checkpoint-delta.entity.js';
import { CheckpointWriteEntity } from './src/checkpoints/entities/checkpoint-write.entity.js';
import { CheckpointEntity } from './src/checkpoints/entities/checkpoint.entity.js';
import { settingsFromEnvironment } from './src/config/env.js';
import { dataSourceOptions } from './src/database/data-source.js';

// For TypeORM's own command line, on the server that DATABASE_URL names: npx typeorm -d dist/ormconfig.js migration:show
const settings = settingsFromEnvironment({ serves: false });
if (settings.databaseUrl === null) throw new Error('DATABASE_URL is required by the TypeORM command line');
export default new DataSource({
  ...dataSourceOptions(settings, settings.databaseUrl),
  entities: [
    CheckpointEntity,
    CheckpointBlobEntity,
    CheckpointWriteEntity,
    CheckpointDeltaEntity,
    ApiKeyEntity,
  ],
});
