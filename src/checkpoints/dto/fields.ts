import { applyDecorators } from '@nestjs/common';
import { Converted } from '../../http/validation/compiled-validation.js';
import {
  Check,
  idFault,
  idText,
  isNumber,
  listFault,
  literalOf,
  MAX_TEXT,
  missingOr,
  textFault,
} from '../../http/validation/fields.js';
import { JsonText } from '../../http/exact-json/exact-json.js';
import { tenantOf } from '../../request/caller.js';
import { DELTA_TYPE, isKeyTooLong, MAX_KEY_BYTES } from '../domain/checkpoint.js';
import { storedThreadId } from '../domain/tenant.js';
import { type FixedKey, keyOf } from './cursor.js';
import { filterFault } from './metadata-filter.js';
import { numericText } from './numeric-text.js';

/** As `IsId`; becomes the id under which the thread of the caller's tenant is stored. */
export function IsThreadId(): PropertyDecorator {
  return applyDecorators(Converted(storedId), Check('isThreadId', threadIdFault));
}

/** An array of thread ids, as `IsThreadId` takes them. */
export function IsThreadIdList(): PropertyDecorator {
  return applyDecorators(
    Converted((value, request) =>
      Array.isArray(value) ? value.map((item) => storedId(item, request)) : value,
    ),
    Check('isThreadIdList', (value) => listFault(value, threadIdFault)),
  );
}

/** Text, or a number, which becomes the text that Postgres prints for it. */
export function IsVersion(): PropertyDecorator {
  return applyDecorators(
    Converted((value) => (isNumber(value) ? (numericText(literalOf(value)) ?? value) : value)),
    Check('isVersion', (value) => (isNumber(value) ? 'is a number out of range' : textFault(value))),
  );
}

/** The serialiser's name for a value's bytes. */
export function IsType(): PropertyDecorator {
  return Check('isType', (value) =>
    typeof value === 'string' && value.startsWith(DELTA_TYPE)
      ? `must not begin with ${DELTA_TYPE}, which marks values that the service stores in its own way`
      : textFault(value),
  );
}

/** An object whose JSON stays text, and that Postgres compares with what is stored in a bounded time. */
export function IsMetadataFilter(): PropertyDecorator {
  return applyDecorators(
    Converted((value) => value),
    Check('isMetadataFilter', (value) =>
      value instanceof JsonText && value.isObject
        ? filterFault(value)
        : missingOr(value, 'must be an object'),
    ),
  );
}

/** What a page of `list` gave as its x-next-cursor, `fixedBy` being the part of the key that the request itself names. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the caller names its class
export function IsCursor<Request extends object>(fixedBy: (request: Request) => FixedKey): PropertyDecorator {
  return Check('isCursor', (value, request) =>
    typeof value === 'string' &&
    value.length <= MAX_TEXT &&
    keyOf(value, '', fixedBy(request as Request)) !== null
      ? null
      : 'must be the x-next-cursor of a list',
  );
}

/** The parts of a key, or of the key of each item of an array, fit an index of Postgres. Parts that are no text are other faults. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the caller names its classes
export function KeyFits<Request extends object, Item extends object = object>(
  partsOf: (request: Request, item: Item) => unknown[],
): PropertyDecorator {
  const tooLong = (request: object, item: object) =>
    isKeyTooLong(...partsOf(request as Request, item as Item).filter((part) => typeof part === 'string'));
  return Check('keyFits', (value, request) => {
    const items: unknown[] = Array.isArray(value) ? value : [request];
    const at = items.findIndex((item) => typeof item === 'object' && item !== null && tooLong(request, item));
    if (at === -1) return null;
    const which = Array.isArray(value) ? `the key of item ${at}` : 'the key';
    return `makes ${which} longer than ${MAX_KEY_BYTES} bytes, all its parts together`;
  });
}

/** What a thread id that no tenant can have becomes. */
const RESERVED = Symbol('reserved');

/** Of a text with a fault that is still to be found, another one. */
function storedId(value: unknown, request: object): unknown {
  const id = idText(value);
  return typeof id !== 'string' || id === '' ? id : (storedThreadId(tenantOf(request), id) ?? RESERVED);
}

function threadIdFault(value: unknown): string | null {
  return value === RESERVED ? 'must not begin with U+0001' : idFault(value);
}
