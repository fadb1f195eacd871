import 'reflect-metadata';
import type { Server } from 'node:http';
import type { INestApplication } from '@nestjs/common';
import type { Logger } from 'pino';
import { createApp } from './app.setup.js';
import { SettingsError, settingsFromEnvironment, type Settings } from './config/env.js';
import { leaseDatabase } from './database/database-lease.js';
import { migrate } from './database/migrate.js';
import { Readiness } from './health/readiness.js';
import { drainable } from './http/drain.js';
import { createLogger } from './http/logging.js';

async function start(settings: Settings, logger: Logger): Promise<void> {
  logger.info({ settings: settings.masked() }, 'starting');
  const stopped = stopSignal();
  const database = await leaseDatabase(settings, logger);
  try {
    if (settings.migrateOnStart) {
      const ran = await migrate(settings, database.url);
      logger.info(ran.length > 0 ? `migrated: ${ran.join(', ')}` : 'the schema is up to date');
    }
    const app = await createApp(settings, database.url, logger);
    try {
      await serve(app, settings, logger, stopped);
    } finally {
      await app.close();
    }
  } finally {
    await database.release();
  }
  logger.info('stopped');
}

/** Listens until the signal, then answers what has arrived. */
async function serve(
  app: INestApplication,
  settings: Settings,
  logger: Logger,
  stopped: Promise<string>,
): Promise<void> {
  const drain = drainable(app.getHttpServer() as Server);
  await app.listen(settings.port, settings.host);
  logger.info(`listening on ${await app.getUrl()}${settings.swaggerEnabled ? ', Swagger UI at /docs' : ''}`);
  logger.info(`${await stopped}: stopping`);
  app.get(Readiness).stop();
  await drain(settings.shutdownDelayMs);
}

/** Resolves with the signal that asks the process to stop; a second one ends it at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve);
  });
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
