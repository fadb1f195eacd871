import type { ServerResponse } from 'node:http';
import zlib from 'node:zlib';
import compression from 'compression';
import type { Request, Response } from 'express';

/** Below this an answer fits few packets, and compressing it costs more than it saves. */
const COMPRESSION_MIN_BYTES = 16 * 1024;

/** The fastest levels: most of an answer is Base64, of which the higher ones make little less. */
const compress = compression({
  threshold: COMPRESSION_MIN_BYTES,
  level: zlib.constants.Z_BEST_SPEED,
  brotli: { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } },
});

/** Ends the response: a text as it is, nothing for undefined, anything else as JSON; long ones compressed where accepted. */
export function answer(response: ServerResponse, body: unknown): void {
  if (body === undefined) {
    response.end();
    return;
  }
  if (!response.hasHeader('Content-Type')) {
    response.setHeader('Content-Type', 'application/json; charset=utf-8');
  }
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  if (text.length < COMPRESSION_MIN_BYTES || !response.req.headers['accept-encoding']) response.end(text);
  else {
    // Its middleware, put to work once the answer is there: the short ones need not pass through it.
    compress(response.req as Request, response as Response, () => response.end(text));
  }
}
