import { type DynamicModule, Inject, Module, type OnApplicationShutdown } from '@nestjs/common';
import { AuthModule } from '../auth/auth.module.js';
import { CheckpointsModule } from '../checkpoints/checkpoints.module.js';
import type { Settings } from '../config/env.js';
import { DatabaseModule } from '../database/database.module.js';
import { HealthModule } from '../health/health.module.js';
import { Metrics } from '../observability/metrics/metrics.js';
import { TRACING, type Tracing } from '../observability/tracing/tracing.js';

@Module({})
export class AppModule implements OnApplicationShutdown {
  constructor(
    private readonly metrics: Metrics,
    @Inject(TRACING) private readonly tracing: Tracing | null,
  ) {}

  async onApplicationShutdown(): Promise<void> {
    this.metrics.stop();
    await this.tracing?.stop();
  }

  static for(
    settings: Settings,
    databaseUrl: string,
    metrics: Metrics,
    tracing: Tracing | null,
  ): DynamicModule {
    return {
      module: AppModule,
      imports: [
        DatabaseModule.for(settings, databaseUrl, metrics, tracing),
        AuthModule,
        CheckpointsModule,
        HealthModule,
      ],
    };
  }
}
