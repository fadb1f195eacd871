import zlib from 'node:zlib';
import type { NestExpressApplication } from '@nestjs/platform-express';
import compression from 'compression';
import type { RequestHandler } from 'express';
import type { Logger } from 'pino';
import type { Settings } from './config/env.js';
import { NestLog, requestLog } from './http/logging.js';
import { serveOpenApi } from './http/openapi.js';
import { ProblemFilter } from './http/problem.filter.js';
import { validationPipe } from './http/validation.js';

/** Below this an answer fits few packets, and compressing it costs more than it saves. */
const COMPRESSION_MIN_BYTES = 16 * 1024;

/** The HTTP pipeline, the same in the service and in its tests. */
export function setUp(app: NestExpressApplication, settings: Settings, logger: Logger): void {
  app.useLogger(new NestLog(logger));
  app.disable('x-powered-by').disable('etag');
  app.use(requestLog(logger), compress());
  app.useGlobalPipes(validationPipe());
  app.useGlobalFilters(new ProblemFilter());
  if (settings.swaggerEnabled) serveOpenApi(app);
}

/** The fastest levels: most of an answer is Base64, of which the higher ones make little less. */
function compress(): RequestHandler {
  return compression({
    threshold: COMPRESSION_MIN_BYTES,
    level: zlib.constants.Z_BEST_SPEED,
    brotli: { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } },
  });
}
