import type { Type as Class } from '@nestjs/common';
import { Transform, Type } from 'class-transformer';
import { getMetadataStorage, type ValidationArguments, ValidationTypes } from 'class-validator';

/** The check of this name says that a value is of another kind; what else is wrong with it or inside it is then no news. */
export const OF_ANOTHER_KIND = 'ofAnotherKind';

/** Makes a DTO of a parsed request, or null when it has a fault. */
export type Maker = (value: unknown) => object | null;

type Convert = (value: unknown, request: object) => unknown;
type Condition = (value: unknown, request: object) => boolean;

interface Check {
  name: string;
  passes: Condition;
  /** What is wrong with a value that does not pass. */
  messageOf: (value: unknown, request: object) => string;
}

/** Each has all the properties, in this order: V8 reads objects of one shape several times as fast as those of many. */
interface Field {
  name: string;
  convert: Convert | undefined;
  items: CompiledClass | undefined;
  makeItem: Maker | undefined;
  applies: Condition | undefined;
  checks: Check[];
}

/** What the decorators of a class say. */
export interface CompiledClass {
  type: Class<object>;
  fields: Field[];
}

const CONVERT = Symbol('convert');
/** Of a field, by `Reflect`: gives the class of its items. */
export const ITEMS = Symbol('items');

/** Converts the value as it came, out of that request: class-transformer would copy the objects of `exact-json.ts`. */
export function Converted(convert: Convert): PropertyDecorator {
  return (target, property) => {
    Reflect.defineMetadata(CONVERT, convert, target, property);
    Transform(({ obj, key }: { obj: Record<string, unknown>; key: string }) => convert(obj[key], obj))(
      target,
      property,
    );
  };
}

/** The value is an array, and its objects are of that class. */
export function Items(type: () => Class<object>): PropertyDecorator {
  return (target, property) => {
    Reflect.defineMetadata(ITEMS, type, target, property);
    Type(type)(target, property);
  };
}

/** null when the class has a decorator that is not known here. */
export function compile(type: Class<object>): Maker | null {
  const compiled = fieldsOf(type);
  return compiled && makerOf(compiled);
}

export function makerOf({ type, fields }: CompiledClass): Maker {
  return (value) => {
    if (!isPlain(value)) return null;
    const request = new type() as Record<string, unknown>;
    for (const { name, convert, makeItem } of fields) {
      const given = value[name];
      if (given === undefined) continue;
      const made =
        makeItem !== undefined && Array.isArray(given)
          ? itemsOf(given, makeItem)
          : (convert?.(given, value) ?? given);
      if (made === null && given !== null) return null;
      request[name] = made;
    }
    for (const { name, applies, checks } of fields) {
      const own = request[name];
      if (applies !== undefined && !applies(own, request)) continue;
      for (const { passes } of checks) if (!passes(own, request)) return null;
    }
    return request;
  };
}

function itemsOf(given: unknown[], make: Maker): object[] | null {
  const items: object[] = [];
  for (const item of given) {
    const made = make(item);
    if (made === null) return null;
    items.push(made);
  }
  return items;
}

export function fieldsOf(type: Class<object>): CompiledClass | null {
  const storage = getMetadataStorage();
  const fields = new Map<string, Field>();
  for (const metadata of storage.getTargetValidationMetadatas(type, '', false, false)) {
    const { propertyName: name, constraints } = metadata;
    const field = fields.get(name) ?? newField(type, name);
    if (field === null) return null;
    fields.set(name, field);
    if (metadata.type === ValidationTypes.CONDITIONAL_VALIDATION) {
      const condition = constraints[0] as (request: object, value: unknown) => boolean;
      field.applies = (value, request) => condition(request, value);
    } else if (metadata.type === ValidationTypes.CUSTOM_VALIDATION && !metadata.each) {
      const [constraint] = storage.getTargetValidatorConstraints(metadata.constraintCls);
      if (constraint === undefined || constraint.async) return null;
      const validator = constraint.instance;
      const { message } = metadata;
      const argumentsOf = (value: unknown, object: object): ValidationArguments => {
        return { value, constraints, targetName: type.name, object, property: name };
      };
      field.checks.push({
        name: constraint.name,
        passes: (value, object) => validator.validate(value, argumentsOf(value, object)) === true,
        messageOf: (value, object) => {
          const known = argumentsOf(value, object);
          if (typeof message === 'function') return message(known);
          return message || (validator.defaultMessage?.(known) ?? '');
        },
      });
    } else if (metadata.type !== ValidationTypes.NESTED_VALIDATION || field.items === undefined) return null;
  }
  return { type, fields: [...fields.values()] };
}

function newField(type: Class<object>, name: string): Field | null {
  const prototype = type.prototype as object;
  const convert = Reflect.getMetadata(CONVERT, prototype, name) as Convert | undefined;
  const itemType = Reflect.getMetadata(ITEMS, prototype, name) as (() => Class<object>) | undefined;
  const items = itemType === undefined ? undefined : fieldsOf(itemType());
  if (items === null) return null;
  const makeItem = items && makerOf(items);
  return { name, convert, items, makeItem, applies: undefined, checks: [] };
}

export function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}
