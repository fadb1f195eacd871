import type { ServerResponse } from 'node:http';
import zlib from 'node:zlib';
import compression from 'compression';
import type { Request, Response } from 'express';
import { countAnswer } from './inflight.js';

/** Below this an answer fits few packets, and compressing it costs more than it saves. */
const COMPRESSION_MIN_BYTES = 16 * 1024;

/** Characters that are written at once. */
const PART = 256 * 1024;

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
  if (text.length < COMPRESSION_MIN_BYTES) {
    response.end(text);
    return;
  }
  countAnswer(response, text.length);
  const write = () => {
    if (text.length > PART) writeParts(response, text);
    else response.end(text);
  };
  if (!response.req.headers['accept-encoding']) write();
  // Its middleware, put to work once the answer is there: the short ones need not pass through it.
  else compress(response.req as Request, response as Response, write);
}

/** Writes a long text as fast as it is read, so that there are never all of its bytes beside it. */
function writeParts(response: ServerResponse, text: string): void {
  response.setHeader('Content-Length', Buffer.byteLength(text));
  let at = 0;
  const write = () => {
    while (at < text.length) {
      let end = Math.min(at + PART, text.length);
      if (isHighSurrogate(text.charCodeAt(end - 1))) end = Math.min(end + 1, text.length);
      const part = text.slice(at, end);
      at = end;
      if (!response.write(part) && at < text.length) {
        response.once('drain', write);
        return;
      }
    }
    response.end();
  };
  write();
}

function isHighSurrogate(code: number): boolean {
  return code >= 0xd800 && code <= 0xdbff;
}
