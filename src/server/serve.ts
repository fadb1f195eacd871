import type { Server } from 'node:http';
import type { INestApplication } from '@nestjs/common';
import type { Logger } from 'pino';
import { createApp } from './create-app.js';
import type { Settings } from '../config/env.js';
import { Readiness } from '../health/readiness.js';
import { drainable } from '../http/connections/drain.js';

/** Where connections come from. */
export interface Port {
  open: (app: INestApplication) => Promise<void>;
  /** Resolves with the signal that asks the service to stop. */
  stopped: Promise<string>;
  /** Resolves, after the signal, when the port is closed or may be. */
  closed: () => Promise<unknown>;
}

/** Takes requests until the signal, then answers what has arrived. */
export async function serve(
  settings: Settings,
  databaseUrl: string,
  logger: Logger,
  port: Port,
): Promise<void> {
  const app = await createApp(settings, databaseUrl, logger);
  try {
    const drain = drainable(app.getHttpServer() as Server);
    await port.open(app);
    logger.info(`${await port.stopped}: stopping`);
    app.get(Readiness).stop();
    await port.closed();
    await drain();
  } finally {
    await app.close();
  }
}
