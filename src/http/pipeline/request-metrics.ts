import type { Metrics } from '../../observability/metrics/metrics.js';
import type { Middleware } from './exact-routes.js';
import { onClose } from '../../request/on-close.js';
import type { Operations } from './operations.js';

declare module 'node:http' {
  interface IncomingMessage {
    /** The bytes of the body, inflated, once they are there. */
    bodyBytes?: number;
  }
}

/** Counts each request when it is answered, or its client has gone. */
export function requestMetrics(metrics: Metrics, operations: Operations): Middleware {
  return (request, response, next) => {
    const { socket } = request;
    const began = performance.now();
    const written = socket.bytesWritten;
    metrics.requestsInFlight += 1;
    onClose(response, () => {
      metrics.requestsInFlight -= 1;
      metrics.request(
        operations.nameOf(request),
        response.writableFinished ? response.statusCode : null,
        performance.now() - began,
        Number(request.headers['content-length'] ?? request.bodyBytes ?? 0),
        socket.bytesWritten - written,
      );
    });
    next();
  };
}
