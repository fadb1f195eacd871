import { type DynamicModule, Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Settings } from '../config/env.js';
import { Metrics } from '../observability/metrics/metrics.js';
import { TRACING, type Tracing } from '../observability/tracing/tracing.js';
import { dataSourceOptions } from './data-source.js';
import { Database } from './database.js';
import { inspectServer } from './server.js';

/** The one connection pool, and the settings, for every other module. */
@Global()
@Module({})
export class DatabaseModule {
  static for(
    settings: Settings,
    databaseUrl: string,
    metrics: Metrics,
    tracing: Tracing | null,
  ): DynamicModule {
    return {
      module: DatabaseModule,
      imports: [
        TypeOrmModule.forRootAsync({
          useFactory: async () => ({
            ...dataSourceOptions(settings, databaseUrl, await inspectServer(settings, databaseUrl)),
            autoLoadEntities: true,
            retryAttempts: 0,
          }),
        }),
      ],
      providers: [
        { provide: Settings, useValue: settings },
        { provide: Metrics, useValue: metrics },
        { provide: TRACING, useValue: tracing },
        Database,
      ],
      exports: [Settings, Metrics, TRACING, Database],
    };
  }
}
