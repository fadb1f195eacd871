import { type DynamicModule, Module } from '@nestjs/common';
import { CheckpointsModule } from './checkpoints/checkpoints.module.js';
import type { Settings } from './config/env.js';
import { DatabaseModule } from './database/database.module.js';
import { HealthModule } from './health/health.module.js';

@Module({})
export class AppModule {
  static for(settings: Settings, databaseUrl: string): DynamicModule {
    return {
      module: AppModule,
      imports: [DatabaseModule.for(settings, databaseUrl), CheckpointsModule, HealthModule],
    };
  }
}
