import type { INestApplication } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Logger } from 'pino';
import { AppModule } from './app.module.js';
import type { Settings } from './config/env.js';
import { limitClients } from './http/client-limits.js';
import { ExactRoutesAdapter } from './http/exact-routes.js';
import { jsonBody } from './http/json-body.js';
import { NestLog, requestLog } from './http/logging.js';
import { serveOpenApi } from './http/openapi.js';
import { ProblemFilter } from './http/problem.filter.js';
import { validationPipe } from './http/validation.js';

/** The service with its HTTP pipeline, not listening yet; the same in production and in the tests. */
export async function createApp(
  settings: Settings,
  databaseUrl: string,
  logger: Logger,
): Promise<INestApplication> {
  const log = requestLog(logger);
  const app = await NestFactory.create<NestExpressApplication>(
    AppModule.for(settings, databaseUrl),
    new ExactRoutesAdapter(settings.fastPath, [log, jsonBody(settings)]),
    { bodyParser: false, logger: new NestLog(logger), abortOnError: false },
  );
  limitClients(app.getHttpServer(), settings);
  app.disable('x-powered-by').disable('etag');
  app.use(log);
  app.useGlobalPipes(validationPipe(settings.fastPath));
  app.useGlobalFilters(new ProblemFilter());
  if (settings.swaggerEnabled) serveOpenApi(app);
  return app;
}
