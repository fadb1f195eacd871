import type { RequestHandler } from 'express';
import helmet from 'helmet';

/**
 * What browsers are told about the pages that they see: Swagger UI, probes, what Express answers. Not on the short way to the
 * operations: what POST answers as JSON no browser renders or keeps.
 */
export function browserHeaders(isEncrypted: boolean): RequestHandler {
  return helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        // Swagger UI has styles in its page, and on its elements.
        styleSrc: ["'self'", "'unsafe-inline'"],
        imgSrc: ["'self'", 'data:'],
        connectSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'none'"],
        frameAncestors: ["'none'"],
      },
    },
    xFrameOptions: { action: 'deny' },
    // Of this host alone: others of its domain may be somebody else's.
    strictTransportSecurity: isEncrypted && { includeSubDomains: false },
  });
}
