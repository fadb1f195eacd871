import { applyDecorators } from '@nestjs/common';
import { ValidateBy, ValidateNested, type ValidationArguments } from 'class-validator';
import { JsonNumber, JsonText } from '../exact-json/exact-json.js';
import { Converted, Items, OF_ANOTHER_KIND } from './compiled-validation.js';

/** Names, ids and types are short. They are compared and copied for each row, and what is merged counts blobs alone. */
export const MAX_TEXT = 64 * 1024;

/** A check whose message says what is wrong with the value; null when nothing is. */
export function Check(
  name: string,
  fault: (value: unknown, request: object) => string | null,
): PropertyDecorator {
  const faultOf = (args?: ValidationArguments) => fault(args?.value, args?.object ?? {});
  return ValidateBy({
    name,
    validator: {
      validate: (_value, args) => faultOf(args) === null,
      defaultMessage: (args) => faultOf(args) ?? '',
    },
  });
}

/** Text that Postgres can store. Numbers are taken as the text that they were written in. */
export function IsId(): PropertyDecorator {
  return applyDecorators(Converted(idText), Check('isId', idFault));
}

/** As `IsId`, but may be empty. */
export function IsIdOrEmpty(): PropertyDecorator {
  return applyDecorators(Converted(idText), Check('isIdOrEmpty', textFault));
}

/** Text that Postgres can store, such as a channel's name or a serialiser's type. */
export function IsText(): PropertyDecorator {
  return Check('isText', textFault);
}

/** An object whose JSON stays text. */
export function IsJsonObject(): PropertyDecorator {
  return applyDecorators(
    Converted((value) => value),
    Check('isJsonObject', (value) => (isJsonObject(value) ? null : missingOr(value, 'must be an object'))),
  );
}

/** Standard Base64 with padding; becomes a Buffer. */
export function IsBlob(): PropertyDecorator {
  return applyDecorators(
    Converted(decodeBase64),
    Check('isBlob', (value) =>
      Buffer.isBuffer(value) ? null : missingOr(value, 'must be standard Base64 with padding'),
    ),
  );
}

/** An integer from `min` to `max`, however it is written: `1.0` is one. */
export function IsIntegerFrom(min: number, max: number): PropertyDecorator {
  return applyDecorators(
    Converted((value) => (value instanceof JsonNumber ? Number(value.literal) : value)),
    Check('isIntegerFrom', (value) =>
      Number.isInteger(value) && (value as number) >= min && (value as number) <= max
        ? null
        : missingOr(value, `must be an integer from ${min} to ${max}`),
    ),
  );
}

/** An array of ids, as `IsId` takes them. */
export function IsIdList(): PropertyDecorator {
  return applyDecorators(
    Converted((value) => (Array.isArray(value) ? value.map(idText) : value)),
    Check('isIdList', (value) => listFault(value, idFault)),
  );
}

/** An array of at most so many different texts that Postgres can store. */
export function IsTextList(max: number): PropertyDecorator {
  return Check('isTextList', (value) => {
    const isLonger = Array.isArray(value) && value.length > max && new Set(value).size > max;
    return isLonger ? `must not hold more than ${max} of them` : listFault(value, textFault);
  });
}

/** An array of some of these words; becomes a list of those that it names, once each and in the order of `words`. */
export function IsListOf(words: readonly string[]): PropertyDecorator {
  const isList = (value: unknown) =>
    Array.isArray(value) && value.every((item) => words.includes(item as string));
  return applyDecorators(
    Converted((value) =>
      isList(value) ? words.filter((word) => (value as unknown[]).includes(word)) : value,
    ),
    Check('isListOf', (value) => (isList(value) ? null : `must be an array of any of ${words.join(', ')}`)),
  );
}

/** An array of objects of that class. */
export function IsArrayOf(type: () => new () => object): PropertyDecorator {
  return applyDecorators(
    Items(type),
    Check(OF_ANOTHER_KIND, (value) => {
      if (!Array.isArray(value)) return missingOr(value, 'must be an array');
      const other = value.findIndex((item) => !(item instanceof type()));
      return other === -1 ? null : `must hold objects only; item ${other} is none`;
    }),
    ValidateNested({ each: true }),
  );
}

export function listFault(value: unknown, faultOf: (item: unknown) => string | null): string | null {
  if (!Array.isArray(value)) return missingOr(value, 'must be an array');
  const at = value.findIndex((item) => faultOf(item) !== null);
  return at === -1 ? null : `item ${at} ${String(faultOf(value[at]))}`;
}

export function missingOr(value: unknown, fault: string): string {
  return value === undefined ? 'is missing' : fault;
}

function isJsonObject(value: unknown): boolean {
  return value instanceof JsonText && value.isObject;
}

export function isNumber(value: unknown): value is number | JsonNumber {
  return typeof value === 'number' || value instanceof JsonNumber;
}

export function literalOf(value: number | JsonNumber): string {
  return typeof value === 'number' ? String(value) : value.literal;
}

export function idFault(value: unknown): string | null {
  return value === '' ? 'must not be empty' : textFault(value);
}

export function idText(value: unknown): unknown {
  return isNumber(value) ? literalOf(value) : value;
}

export function textFault(value: unknown): string | null {
  if (typeof value !== 'string') return missingOr(value, 'must be a string');
  if (value.length > MAX_TEXT) return `must not be longer than ${MAX_TEXT} characters`;
  if (value.includes('\0')) return 'must not hold NUL';
  return value.isWellFormed() ? null : 'must not hold a lone surrogate';
}

/** Buffer.from() skips bad characters in silence and takes the URL-safe alphabet too; the length and a search tell. */
function decodeBase64(value: unknown): unknown {
  if (typeof value !== 'string' || value.length % 4 !== 0) return value;
  const padding = value.endsWith('==') ? 2 : value.endsWith('=') ? 1 : 0;
  const bytes = Buffer.from(value, 'base64');
  const whole = bytes.length === (value.length / 4) * 3 - padding;
  return whole && !value.includes('-') && !value.includes('_') ? bytes : value;
}
