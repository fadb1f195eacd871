import { type ArgumentMetadata, type Type as Class, ValidationPipe } from '@nestjs/common';
import { getMetadataStorage } from 'class-validator';
import { InvalidRequestError } from '../../errors/errors.js';
import { passCaller } from '../../request/caller.js';
import { type CompiledClass, fieldsOf, isPlain, ITEMS, type Maker, makerOf } from './compiled-validation.js';
import { describeFaults } from './described-faults.js';

/** Rows from which on class-transformer and class-validator, some 100 µs for each, would keep all others waiting. */
const MANY = 10;

/**
 * Nest's pipe, on the fields that the class has: class-transformer takes the square of the number of fields, seconds for
 * a hundred thousand that nobody asked for. A request of many rows is checked by what is compiled.
 */
export class KnownFieldsPipe extends ValidationPipe {
  private readonly compiled = new Map<unknown, { maker: Maker; fields: CompiledClass } | null>();

  override async transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    const { metatype } = metadata;
    if (!metatype || !isPlain(value)) return super.transform(value, metadata);
    const compiled = this.compiledOf(metatype as Class<object>);
    if (compiled !== null && hasManyRows(value)) {
      const made = compiled.maker(value);
      if (made === null) {
        const { faults, total } = describeFaults(compiled.fields, value);
        throw new InvalidRequestError(faults, total);
      }
      passCaller(value, made);
      return made;
    }
    const fields = known(metatype as Class<object>, value);
    passCaller(value, fields);
    const made: unknown = await super.transform(fields, metadata);
    passCaller(value, made);
    return made;
  }

  /** null when the class has a decorator that is not known here. */
  protected compiledOf(type: Class<object>): { maker: Maker; fields: CompiledClass } | null {
    let compiled = this.compiled.get(type);
    if (compiled === undefined) {
      const fields = fieldsOf(type);
      compiled = fields && { maker: makerOf(fields), fields };
      this.compiled.set(type, compiled);
    }
    return compiled;
  }
}

/**
 * What class-transformer and class-validator do to a request costs some 50 µs; the same checks as plain calls cost less
 * than one. So the decorators' metadata are compiled, once for each class, to a function that makes a DTO of a request
 * without a fault. A request with a fault, or a class with a decorator that is not known here, goes the usual way, which
 * also finds the words for the fault.
 */
export class CompiledValidationPipe extends KnownFieldsPipe {
  override transform(value: unknown, metadata: ArgumentMetadata): Promise<unknown> {
    const { metatype } = metadata;
    const made = metatype === undefined ? null : this.compiledOf(metatype as Class<object>)?.maker(value);
    if (made == null) return super.transform(value, metadata);
    passCaller(value, made);
    // The request keeps its body until it is answered: of a blob that would be the Base64 beside the bytes.
    for (const name of Object.keys(value as object)) (value as Record<string, unknown>)[name] = undefined;
    return Promise.resolve(made);
  }
}

function hasManyRows(value: Record<string, unknown>): boolean {
  return Object.values(value).some((rows) => Array.isArray(rows) && rows.length > MANY);
}

function known(type: Class<object>, value: Record<string, unknown>): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const { propertyName: name } of getMetadataStorage().getTargetValidationMetadatas(
    type,
    '',
    false,
    false,
  )) {
    if (name in fields || !Object.hasOwn(value, name)) continue;
    const own = value[name];
    const itemType = Reflect.getMetadata(ITEMS, type.prototype as object, name) as
      (() => Class<object>) | undefined;
    fields[name] =
      itemType !== undefined && Array.isArray(own)
        ? own.map((item: unknown) => (isPlain(item) ? known(itemType(), item) : item))
        : withoutFields(own);
  }
  return fields;
}

/** No field takes an object that was parsed; what is in it says nothing more of its fault. */
function withoutFields(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutFields);
  return isPlain(value) ? {} : value;
}
