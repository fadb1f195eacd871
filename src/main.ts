import 'reflect-metadata';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Logger } from 'pino';
import { AppModule } from './app.module.js';
import { setUp } from './app.setup.js';
import { SettingsError, settingsFromEnvironment, type Settings } from './config/env.js';
import { leaseDatabase } from './database/database-lease.js';
import { migrate } from './database/migrate.js';
import { Readiness } from './health/readiness.js';
import { createLogger } from './http/logging.js';

const CLOSE_IDLE_MS = 20;

async function start(settings: Settings, logger: Logger): Promise<void> {
  logger.info({ settings: settings.masked() }, 'starting');
  const stopped = stopSignal();
  const database = await leaseDatabase(settings, logger);
  try {
    if (settings.migrateOnStart) {
      const ran = await migrate(settings, database.url);
      logger.info(ran.length > 0 ? `migrated: ${ran.join(', ')}` : 'the schema is up to date');
    }
    const app = await NestFactory.create<NestExpressApplication>(AppModule.for(settings, database.url), {
      bodyParser: false,
      bufferLogs: true,
      abortOnError: false,
    });
    setUp(app, settings, logger);
    await app.listen(settings.port, settings.host);
    logger.info(
      `listening on ${await app.getUrl()}${settings.swaggerEnabled ? ', Swagger UI at /docs' : ''}`,
    );
    logger.info(`${await stopped}: stopping`);
    await drain(app, settings);
  } finally {
    await database.release();
  }
  logger.info('stopped');
}

/** Resolves with the signal that asks the process to stop; a second one ends it at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve);
  });
}

/**
 * Answers everything that has arrived, then closes. For SHUTDOWN_DELAY_MS requests are still taken, each the last one on
 * its connection, so that load balancers and clients move away before the port closes.
 */
async function drain(app: NestExpressApplication, settings: Settings): Promise<void> {
  app.get(Readiness).stop();
  const server = app.getHttpServer();
  server.prependListener('request', (_request, response) => response.setHeader('Connection', 'close'));
  await delay(settings.shutdownDelayMs);
  // A connection that was busy becomes idle only afterwards, and would keep the server open.
  const closing = setInterval(() => {
    server.closeIdleConnections();
  }, CLOSE_IDLE_MS);
  server.close();
  await once(server, 'close');
  clearInterval(closing);
  await app.close();
}

try {
  const settings = settingsFromEnvironment();
  const logger = createLogger(settings.logLevel);
  await start(settings, logger).catch((error: unknown) => {
    logger.fatal(error, 'cannot go on');
    process.exitCode = 1;
  });
} catch (error) {
  if (!(error instanceof SettingsError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
