import type { Middleware } from './exact-routes.js';

const REQUEST_HEADERS =
  'authorization, content-encoding, content-type, traceparent, tracestate, x-agent-api-key, x-request-id, x-tenant';
const EXPOSED_HEADERS = 'retry-after, x-next-cursor, x-request-id';
/** How long a browser need not ask again. */
const MAX_AGE_SECONDS = 600;

/** Lets pages of these origins use the service; a browser keeps what it answers from those of others. */
export function cors(origins: ReadonlySet<string>): Middleware {
  return (request, response, next) => {
    response.setHeader('Vary', 'Origin');
    const { origin, 'access-control-request-method': asked } = request.headers;
    if (origin === undefined || !origins.has(origin)) {
      next();
      return;
    }
    response.setHeader('Access-Control-Allow-Origin', origin);
    if (request.method === 'OPTIONS' && asked !== undefined) {
      response.setHeader('Access-Control-Allow-Methods', 'GET, POST');
      response.setHeader('Access-Control-Allow-Headers', REQUEST_HEADERS);
      response.setHeader('Access-Control-Max-Age', MAX_AGE_SECONDS);
      response.statusCode = 204;
      response.end();
      return;
    }
    response.setHeader('Access-Control-Expose-Headers', EXPOSED_HEADERS);
    next();
  };
}
