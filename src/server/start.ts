import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { STOP_SIGNALS, Workers } from './workers.js';
import { misspeltInEnvironment, type Settings, settingsFromEnvironment } from '../config/env.js';
import { leaseDatabase } from '../database/database-lease.js';
import { inspectRights, migrate } from '../database/migrate.js';
import { budgetOf, inspectServer, type Server } from '../database/server.js';
import { createLogger, logWarnings } from '../observability/logging.js';
import { MetricsServer } from '../observability/metrics/metrics-server.js';
import { Metrics } from '../observability/metrics/metrics.js';

/**
 * Serves, by the settings of the environment, until the process is told to stop. Resolves with the exit code.
 *
 * @throws SettingsError
 */
export async function start(): Promise<number> {
  const settings = settingsFromEnvironment();
  const logger = createLogger(settings.logLevel);
  logWarnings(logger);
  try {
    await serveUntilStopped(settings, logger);
    return 0;
  } catch (error) {
    logger.fatal(error, 'cannot go on');
    return 1;
  }
}

async function serveUntilStopped(settings: Settings, logger: Logger): Promise<void> {
  logger.info({ settings: settings.masked() }, 'starting');
  for (const { name, meant } of misspeltInEnvironment()) {
    logger.warn(`${name} is not a setting of this service and has no effect; did you mean ${meant}?`);
  }
  if (settings.authModes.length === 0) {
    logger.warn('AUTH_MODE is none: whoever reaches the port reads and deletes every thread');
  }
  const stopped = stopSignal();
  const database = await leaseDatabase(settings, logger);
  let metricsServer: MetricsServer | undefined;
  const serveMetrics = async (scrape: () => Promise<string>) => {
    if (settings.metricsPort === null) return;
    metricsServer = await MetricsServer.listen(settings.metricsPort, settings.host, scrape);
    logger.info(`metrics on ${metricsServer.url}`);
  };
  try {
    if (settings.migrateOnStart) {
      const ran = await migrate(settings, database.url);
      logger.info(ran.length > 0 ? `migrated: ${ran.join(', ')}` : 'the schema is up to date');
    }
    // One that is out of reach is reported by those who serve.
    await inspectServer(settings, database.url).then(
      (server) => {
        logServer(settings, server, logger);
      },
      () => undefined,
    );
    // Readiness says the same for as long as it lasts.
    const unfit = await inspectRights(settings, database.url).catch(() => null);
    if (unfit !== null) logger.error(unfit);
    const sayListening = (url: string) => {
      logger.info(`listening on ${url}${settings.swaggerEnabled ? ', Swagger UI at /docs' : ''}`);
    };
    if (settings.workers > 1) {
      const workers = new Workers(settings, database.url, logger);
      try {
        await serveMetrics(() => workers.scrape());
        sayListening(await workers.listen());
        const signal = await Promise.race([stopped, workers.failed]);
        logger.info(`${signal}: stopping`);
        await workers.stop(signal);
      } finally {
        await workers.end();
      }
    } else {
      // Two thirds of what a start takes: not before it is known that there is something to serve, nor beside workers.
      const { serve } = await import('./serve.js');
      await serve(settings, database.url, logger, {
        open: async (app) => {
          await serveMetrics(() => app.get(Metrics).scrape());
          await app.listen(settings.port, settings.host);
          sayListening(await app.getUrl());
        },
        stopped,
        closed: () => delay(settings.shutdownDelayMs),
      });
    }
  } finally {
    metricsServer?.close();
    await database.release();
  }
  logger.info('stopped');
}

function logServer(settings: Settings, server: Server, logger: Logger): void {
  const { text, isNear } = budgetOf(settings, server.connections, server.isPooled);
  logger[isNear ? 'warn' : 'info'](`connections: ${text}`);
  if (!server.isPooled) return;
  const { statementTimeoutMs: timeout } = server;
  if (timeout > 0 && timeout <= settings.statementTimeoutMs) {
    logger.info(`a pooler keeps STATEMENT_TIMEOUT_MS back; Postgres ends a statement after ${timeout} ms`);
  } else {
    logger.warn(
      `a pooler keeps STATEMENT_TIMEOUT_MS back: this service gives up after ${settings.statementTimeoutMs} ms, Postgres ` +
        'goes on; see `alter role … set statement_timeout`',
    );
  }
}

/** Resolves with the signal that asks the process to stop; a second one ends it at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of STOP_SIGNALS) process.once(signal, resolve);
  });
}
