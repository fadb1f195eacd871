import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import {
  InvalidRequestError,
  LimitExceededError,
  MalformedBodyError,
  UnsupportedMediaTypeError,
} from '../../errors/errors.js';
import type { Settings } from '../../config/env.js';
import { setCaller } from '../../request/caller.js';
import { collectBody } from './collect-body.js';
import { isUtf8Of } from './content-type.js';
import type { Middleware } from '../pipeline/exact-routes.js';
import { JsonLengthError, JsonSyntaxError, parseExactJson } from '../exact-json/exact-json.js';
import { Inflight } from '../../request/inflight.js';
import { LARGE_BODY_BYTES, parseLarge } from './large-body.js';

/** The documents that LangGraph owns; their JSON goes to and from the database as text. */
const EXACT_FIELDS: ReadonlySet<string> = new Set(['checkpoint', 'metadata', 'filter_metadata']);

const BYTE_ORDER_MARK = Buffer.from('efbbbf', 'hex');

/** A form of bodies: its content type, and what it makes of their bytes. `parse` throws a DomainError. */
export interface BodyForm {
  type: string;
  parse: (bytes: Buffer, settings: Settings) => object;
}

/** A JSON object, as `parseExactJson` finds it. */
export const JSON_OBJECT: BodyForm = { type: 'application/json', parse: parseObject };

/** Collects the body of a request, inflates it, and leaves in `body` what the form makes of it. */
export function readBody(settings: Settings, form: BodyForm): Middleware {
  const inflight = Inflight.of(settings);
  return (request: IncomingMessage & { body?: unknown }, response, next) => {
    const share = inflight.open(request, response);
    const parse = (error: unknown, bytes?: Buffer) => {
      inflight.read(share, bytes?.length ?? 0);
      try {
        if (error !== undefined) throw toDomainError(error, settings);
        request.bodyBytes = bytes?.length ?? 0;
        const body = parseBody(bytes, settings, form);
        setCaller(body, share.caller);
        request.body = body;
      } catch (fault) {
        next(fault);
        return;
      }
      if (request.trace === undefined) next();
      else request.trace.run(request.body, next);
    };
    const type = request.headers['content-type'];
    if (type === undefined || !isUtf8Of(form.type, type)) {
      next(
        new UnsupportedMediaTypeError(
          `The content type must be ${form.type} in UTF-8; it is ${type === undefined ? 'absent' : `"${type}"`}`,
        ),
      );
      return;
    }
    collectBody(request, share, inflight, settings.bodyLimitBytes, parse);
  };
}

/** What `collectBody` refuses has a status, and a message that may be shown. */
function toDomainError(error: unknown, settings: Settings): unknown {
  const { status, message } = error as { status?: number; message: string };
  if (status === 413) return new LimitExceededError('The body', 'BODY_LIMIT_BYTES', settings.bodyLimitBytes);
  if (status === 415) return new UnsupportedMediaTypeError(message, { cause: error });
  return status === 400 ? new MalformedBodyError(message, { cause: error }) : error;
}

function parseBody(bytes: Buffer | undefined, settings: Settings, form: BodyForm): object {
  // RFC 8259 lets a parser ignore the mark that some editors and .NET put first.
  if (bytes?.subarray(0, 3).equals(BYTE_ORDER_MARK)) bytes = bytes.subarray(3);
  return form.parse(bytes ?? Buffer.alloc(0), settings);
}

function parseObject(bytes: Buffer, settings: Settings): object {
  if (bytes.length === 0) throw new MalformedBodyError('The body is empty');
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
