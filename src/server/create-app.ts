import type { Server as HttpServer } from 'node:http';
import type { Server } from 'node:tls';
import type { INestApplication } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Express } from 'express';
import type { Logger } from 'pino';
import { AppModule } from './app.module.js';
import { Audit } from '../auth/audit.js';
import { Authenticator } from '../auth/authenticator.js';
import { Gate } from '../auth/gate.js';
import type { Settings } from '../config/env.js';
import { VERSION } from '../config/version.js';
import { browserHeaders } from '../http/pipeline/browser-headers.js';
import { Certificate } from '../http/connections/certificate.js';
import { limitClients } from '../http/connections/client-limits.js';
import { cors } from '../http/pipeline/cors.js';
import { expectContinue } from '../http/connections/expect-continue.js';
import { ExactRoutesAdapter, type Middleware } from '../http/pipeline/exact-routes.js';
import { BATCH } from '../http/body/batch-body.js';
import { JSON_OBJECT, readBody } from '../http/body/json-body.js';
import { NestLog } from '../observability/logging.js';
import { requestLog } from '../http/pipeline/request-log.js';
import { serveOpenApi } from '../http/openapi/openapi.js';
import { Operations } from '../http/pipeline/operations.js';
import { ProblemFilter } from '../http/problems/problem.filter.js';
import { requestMetrics } from '../http/pipeline/request-metrics.js';
import { validationPipe } from '../http/validation/validation.js';
import { answerScrape } from '../observability/metrics/metrics-server.js';
import { Metrics } from '../observability/metrics/metrics.js';
import { startTracing } from '../observability/tracing/start-tracing.js';
import type { Tracing } from '../observability/tracing/tracing.js';

/** The service with its HTTP pipeline, not listening yet; the same in production and in the tests. */
export async function createApp(
  settings: Settings,
  databaseUrl: string,
  logger: Logger,
): Promise<INestApplication> {
  const operations = new Operations();
  const metrics = new Metrics(VERSION);
  const tracing = await startTracing(
    settings,
    (request) => operations.nameOf(request),
    (message) => {
      logger.warn(message);
    },
  );
  const around = [
    ...[requestLog(logger), requestMetrics(metrics, operations), ...traced(tracing)],
    ...(settings.corsOrigins.length > 0 ? [cors(new Set(settings.corsOrigins))] : []),
  ];
  const adapter = new ExactRoutesAdapter(settings.fastPath, around, operations);
  const certificate = settings.tls && new Certificate(settings.tls, logger);
  const app = await NestFactory.create<NestExpressApplication>(
    AppModule.for(settings, databaseUrl, metrics, tracing),
    adapter,
    {
      ...{ bodyParser: false, logger: new NestLog(logger), abortOnError: false },
      ...(certificate !== null && { httpsOptions: certificate.optionsFor(settings) }),
    },
  );
  certificate?.renewFor(app.getHttpServer() as unknown as Server);
  const audit = app.get(Audit);
  audit.writeTo(logger);
  const gate = new Gate(settings, app.get(Authenticator), audit);
  const [readObject, readBatch] = [readBody(settings, JSON_OBJECT), readBody(settings, BATCH)];
  // Who may not do it is refused before any of the body is read.
  adapter.before = (operation) => [...gate.before(operation), operation === 'batch' ? readBatch : readObject];
  const server: HttpServer = app.getHttpServer();
  metrics.read.connections = limitClients(server, settings);
  expectContinue(server);
  app.disable('x-powered-by').disable('etag');
  app.use(browserHeaders(settings.tls !== null));
  for (const middleware of around) app.use(middleware);
  app.useGlobalPipes(validationPipe(settings.fastPath));
  app.useGlobalFilters(new ProblemFilter());
  if (settings.swaggerEnabled) serveOpenApi(app);
  if (settings.metricsPort === null) {
    adapter.getInstance<Express>().get('/metrics', (_request, response) => {
      void answerScrape(() => metrics.scrape(), response);
    });
  }
  return app;
}

function traced(tracing: Tracing | null): Middleware[] {
  if (tracing === null) return [];
  return [
    (request, response, next) => {
      tracing.begin(request, response);
      next();
    },
  ];
}
