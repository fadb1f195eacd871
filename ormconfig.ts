import 'reflect-metadata';
import { DataSource } from 'typeorm';
import { settingsFromEnvironment } from './src/config/env.js';
import { dataSourceOptions } from './src/database/data-source.js';

// For TypeORM's own command line, on the server that DATABASE_URL names: npx typeorm -d dist/ormconfig.js migration:show
const settings = settingsFromEnvironment({ serves: false });
if (settings.databaseUrl === null) throw new Error('DATABASE_URL is required by the TypeORM command line');
export default new DataSource(dataSourceOptions(settings, settings.databaseUrl));
