import './heap.js';
import 'reflect-metadata';
import cluster from 'node:cluster';
import type { Server } from 'node:http';
import { Primary } from './workers.js';
import { settingsFromEnvironment } from '../config/env.js';
import { leaseDatabase } from '../database/database-lease.js';
import { createLogger, logWarnings } from '../observability/logging.js';
import { Metrics } from '../observability/metrics/metrics.js';
import { serve } from './serve.js';

// One of the processes that answer when WORKERS is above 1; main.ts starts them.
const settings = settingsFromEnvironment();
const logger = createLogger(settings.logLevel, cluster.worker?.id);
logWarnings(logger);
const primary = new Primary();
try {
  const { url } = await leaseDatabase(settings, logger);
  await serve(settings, url, logger, {
    open: async (app) => {
      await app.init();
      primary.shareMetrics(app.get(Metrics));
      primary.connect(app.getHttpServer() as Server);
    },
    stopped: primary.stopped,
    closed: () => primary.closed,
  });
} catch (error) {
  logger.fatal(error, 'cannot go on');
  process.exitCode = 1;
} finally {
  cluster.worker?.disconnect();
}
