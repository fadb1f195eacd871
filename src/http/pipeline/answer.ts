import type { ServerResponse } from 'node:http';
import zlib from 'node:zlib';
import compression from 'compression';
import type { Request, Response } from 'express';
import { countAnswer } from '../../request/inflight.js';
import { JsonWithBlobs, PART, partsOf } from '../exact-json/json-with-blobs.js';

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
    countAnswer(response, 0);
    response.end();
    return;
  }
  if (!response.hasHeader('Content-Type')) {
    response.setHeader('Content-Type', 'application/json; charset=utf-8');
  }
  const json = typeof body === 'string' || body instanceof JsonWithBlobs ? body : JSON.stringify(body);
  countAnswer(response, json.length);
  if (typeof json === 'string' && json.length < COMPRESSION_MIN_BYTES) {
    response.end(json);
    return;
  }
  const write = () => {
    if (typeof json !== 'string') writeParts(response, json.length, json.parts());
    else if (json.length <= PART) response.end(json);
    else writeParts(response, Buffer.byteLength(json), partsOf(json));
  };
  if (!response.req.headers['accept-encoding']) write();
  // Its middleware, put to work once the answer is there: the short ones need not pass through it.
  else compress(response.req as Request, response as Response, write);
}

/** Writes a long answer as fast as it is read, so that there are never all of its bytes. */
function writeParts(response: ServerResponse, bytes: number, parts: Iterator<string>): void {
  response.setHeader('Content-Length', bytes);
  let isEnded = false;
  const write = () => {
    if (isEnded) return;
    for (let part = parts.next(); part.done !== true; part = parts.next()) {
      if (!response.write(part.value)) return;
    }
    isEnded = true;
    response.end();
  };
  // Once and for all: `compression` passes listeners on to its own stream, and does not take them away there again.
  response.on('drain', write);
  write();
}
