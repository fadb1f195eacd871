import { type DynamicModule, Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Settings } from '../config/env.js';
import { dataSourceOptions } from './data-source.js';
import { Database } from './database.js';
import { inspectServer } from './server.js';

/** The one connection pool, and the settings, for every other module. */
@Global()
@Module({})
export class DatabaseModule {
  static for(settings: Settings, databaseUrl: string): DynamicModule {
    return {
      module: DatabaseModule,
      imports: [
        TypeOrmModule.forRootAsync({
          useFactory: async () => ({
            ...dataSourceOptions(settings, databaseUrl, await inspectServer(settings, databaseUrl)),
            retryAttempts: 0,
          }),
        }),
      ],
      providers: [{ provide: Settings, useValue: settings }, Database],
      exports: [Settings, Database],
    };
  }
}
