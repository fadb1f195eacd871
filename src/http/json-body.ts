import { isUtf8 } from 'node:buffer';
import express, { type RequestHandler } from 'express';
import {
  InvalidRequestError,
  LimitExceededError,
  MalformedBodyError,
  UnsupportedMediaTypeError,
} from '../checkpoints/checkpoint.errors.js';
import type { Settings } from '../config/env.js';
import { JsonLengthError, JsonSyntaxError, parseExactJson } from './exact-json.js';

/** The documents that LangGraph owns; their JSON goes to and from the database as text. */
const EXACT_FIELDS: ReadonlySet<string> = new Set(['checkpoint', 'metadata', 'filter_metadata']);

const JSON_TYPE = /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i;

/** Collects the body of a request, inflates it, and leaves in `req.body` the object that `parseExactJson` finds in it. */
export function jsonBody(settings: Settings): RequestHandler[] {
  const collect = express.raw({ type: () => true, limit: settings.bodyLimitBytes });
  return [
    (request, _response, next) => {
      const type = request.headers['content-type'];
      if (type === undefined || !JSON_TYPE.test(type)) {
        throw new UnsupportedMediaTypeError(
          `The content type must be application/json in UTF-8; it is ${type === undefined ? 'absent' : `"${type}"`}`,
        );
      }
      next();
    },
    (request, response, next) => {
      collect(request, response, (error?: unknown) => {
        next(error === undefined ? undefined : toDomainError(error, settings));
      });
    },
    (request, _response, next) => {
      request.body = parseBody(request.body as Buffer | undefined, settings.rowsLimit);
      next();
    },
  ];
}

/** What the body parser refuses has a status, and a message that may be shown. */
function toDomainError(error: unknown, settings: Settings): unknown {
  const { status, message } = error as { status?: number; message: string };
  if (status === 413) return new LimitExceededError('The body', 'BODY_LIMIT_BYTES', settings.bodyLimitBytes);
  if (status === 415) return new UnsupportedMediaTypeError(message, { cause: error });
  return status === 400 ? new MalformedBodyError(message, { cause: error }) : error;
}

function parseBody(bytes: Buffer | undefined, rowsLimit: number): object {
  if (bytes === undefined || bytes.length === 0) throw new MalformedBodyError('The body is empty');
  if (!isUtf8(bytes)) throw new MalformedBodyError('The body holds bytes that are no UTF-8');
  const body = parse(bytes.toString('utf8'), rowsLimit);
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new InvalidRequestError([{ pointer: '#', detail: 'must be an object' }]);
  }
  return body;
}

function parse(text: string, rowsLimit: number): unknown {
  try {
    return parseExactJson(text, { exact: EXACT_FIELDS, maxElements: rowsLimit });
  } catch (error) {
    if (error instanceof JsonSyntaxError) throw new MalformedBodyError(error.message);
    if (error instanceof JsonLengthError) {
      throw new LimitExceededError(`The number of ${error.member}`, 'ROWS_LIMIT', rowsLimit);
    }
    throw error;
  }
}
