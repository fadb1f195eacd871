import { type DynamicModule, Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Settings } from '../config/env.js';
import { dataSourceOptions } from './data-source.js';
import { Database } from './database.js';

/** The one connection pool, and the settings, for every other module. */
@Global()
@Module({})
export class DatabaseModule {
  static for(settings: Settings, databaseUrl: string): DynamicModule {
    return {
      module: DatabaseModule,
      imports: [TypeOrmModule.forRoot({ ...dataSourceOptions(settings, databaseUrl), retryAttempts: 0 })],
      providers: [{ provide: Settings, useValue: settings }, Database],
      exports: [Settings, Database],
    };
  }
}
