import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import {
  InvalidRequestError,
  LimitExceededError,
  MalformedBodyError,
  UnsupportedMediaTypeError,
} from '../checkpoints/checkpoint.errors.js';
import type { Settings } from '../config/env.js';
import { setCaller } from './caller.js';
import type { Middleware } from './exact-routes.js';
import { JsonLengthError, JsonSyntaxError, parseExactJson } from './exact-json.js';
import { Inflight } from './inflight.js';
import { collectLarge, LARGE_BODY_BYTES, parseLarge } from './large-body.js';

/** The documents that LangGraph owns; their JSON goes to and from the database as text. */
const EXACT_FIELDS: ReadonlySet<string> = new Set(['checkpoint', 'metadata', 'filter_metadata']);

const JSON_TYPE = /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;

/** Collects the body of a request, inflates it, and leaves in `body` the object that `parseExactJson` finds in it. */
export function jsonBody(settings: Settings): Middleware {
  const inflight = Inflight.of(settings);
  return (request: IncomingMessage & { body?: unknown }, response, next) => {
    const share = inflight.open(request, response);
    const parse = (error: unknown, bytes?: Buffer) => {
      inflight.read(share, bytes?.length ?? 0);
      try {
        if (error !== undefined) throw toDomainError(error, settings);
        request.bodyBytes = bytes?.length ?? 0;
        const body = parseBody(bytes, settings);
        setCaller(body, share.caller);
        request.body = body;
      } catch (fault) {
        next(fault);
        return;
      }
      if (request.trace === undefined) next();
      else request.trace.run(request.body, next);
    };
    const { 'content-type': type, 'content-encoding': encoding, 'content-length': length } = request.headers;
    if (type === undefined || !(type === 'application/json' || JSON_TYPE.test(type))) {
      next(
        new UnsupportedMediaTypeError(
          `The content type must be application/json in UTF-8; it is ${type === undefined ? 'absent' : `"${type}"`}`,
        ),
      );
      return;
    }
    const bytes =
      length === undefined && 'transfer-encoding' in request.headers ? Infinity : Number(length ?? 0);
    if (encoding !== undefined || bytes >= LARGE_BODY_BYTES) {
      collectLarge(request, share, inflight, settings.bodyLimitBytes, parse);
      return;
    }
    const begin = (error?: Error) => {
      if (error === undefined) collect(request, settings.bodyLimitBytes, parse);
      else parse(error);
    };
    if (inflight.need(share, bytes, begin)) begin();
  };
}

/** Not a part of a body, which would keep the whole. */
const NOTHING = Buffer.alloc(0);

/** A body as it comes. `express.raw` does the same at some 20 µs more. */
function collect(
  request: IncomingMessage,
  limit: number,
  done: (error: unknown, bytes?: Buffer) => void,
): void {
  const length = Number(request.headers['content-length'] ?? 0);
  if (length > limit) {
    done({ status: 413 });
    return;
  }
  let bytes: Buffer = NOTHING;
  let received = 0;
  const take = (chunk: Buffer) => {
    const sum = received + chunk.length;
    if (sum > limit) {
      request.off('data', take).off('end', end).resume();
      done({ status: 413 });
      return;
    }
    // Most bodies come in one piece, which need not be copied.
    if (received === 0) bytes = chunk;
    else {
      if (sum > bytes.length) bytes = Buffer.concat([bytes], Math.max(sum, length, 2 * bytes.length));
      chunk.copy(bytes, received);
    }
    received = sum;
  };
  const end = () => {
    const whole = bytes.subarray(0, received);
    bytes = NOTHING; // the request would keep it, with its listeners, until it is answered
    done(undefined, whole);
  };
  request.on('data', take).once('end', end);
}

/** What `collectLarge` refuses has a status, and a message that may be shown. */
function toDomainError(error: unknown, settings: Settings): unknown {
  const { status, message } = error as { status?: number; message: string };
  if (status === 413) return new LimitExceededError('The body', 'BODY_LIMIT_BYTES', settings.bodyLimitBytes);
  if (status === 415) return new UnsupportedMediaTypeError(message, { cause: error });
  return status === 400 ? new MalformedBodyError(message, { cause: error }) : error;
}

function parseBody(bytes: Buffer | undefined, settings: Settings): object {
  if (bytes === undefined || bytes.length === 0) throw new MalformedBodyError('The body is empty');
  if (!isUtf8(bytes)) throw new MalformedBodyError('The body holds bytes that are no UTF-8');
  const body = parseWhole(bytes, settings);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new InvalidRequestError([{ pointer: '#', detail: 'must be an object' }]);
  }
  return body;
}

function parseWhole(bytes: Buffer, settings: Settings): unknown {
  if (bytes.length < LARGE_BODY_BYTES) return parse(bytes.toString('utf8'), settings);
  return parseLarge(bytes, (text) => parse(text, settings)) ?? parse(bytes.toString('utf8'), settings);
}

function parse(text: string, settings: Settings): unknown {
  try {
    return parseExactJson(text, {
      exact: EXACT_FIELDS,
      maxElements: settings.rowsLimit,
      maxDocumentBytes: settings.documentLimitBytes,
      maxDocumentNodes: settings.documentNodesLimit,
    });
  } catch (error) {
    if (error instanceof JsonSyntaxError) throw new MalformedBodyError(error.message);
    if (error instanceof JsonLengthError) throw limitOf(error);
    throw error;
  }
}

function limitOf({ of, member, limit }: JsonLengthError): LimitExceededError {
  switch (of) {
    case 'array':
      return new LimitExceededError(`The number of ${member}`, 'ROWS_LIMIT', limit);
    case 'fields':
      return new LimitExceededError('The number of fields', `1000 + 16 × ROWS_LIMIT`, limit);
    case 'values':
      return new LimitExceededError('The number of values in the documents', 'DOCUMENT_NODES_LIMIT', limit);
  }
}
