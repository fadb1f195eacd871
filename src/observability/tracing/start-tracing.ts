import type { IncomingMessage } from 'node:http';
import type { Settings } from '../../config/env.js';
import type { Tracing } from './tracing.js';

/** Null when the OTEL_* variables do not ask for traces; OpenTelemetry is not even loaded then. */
export async function startTracing(
  settings: Settings,
  nameOf: (request: IncomingMessage) => string,
  warn: (message: string) => void,
): Promise<Tracing | null> {
  if (settings.tracing === null) return null;
  const { OpenTelemetry } = await import('./opentelemetry.js');
  return OpenTelemetry.start(settings.tracing, nameOf, warn);
}
