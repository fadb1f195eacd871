import type { Type as Class, ValidationPipe, ValidationPipeOptions } from '@nestjs/common';
import type { ValidationError } from 'class-validator';
import { type Fault, InvalidRequestError } from '../../errors/errors.js';
import { OF_ANOTHER_KIND } from './compiled-validation.js';
import { CompiledValidationPipe, KnownFieldsPipe } from './validation-pipes.js';

/** Makes a DTO of the parsed body, or refuses with every fault. */
export function validationPipe(fast: boolean): ValidationPipe {
  const options: ValidationPipeOptions = {
    transform: true,
    exceptionFactory: (errors) => new InvalidRequestError(errors.flatMap((error) => toFaults(error, '#'))),
  };
  return fast ? new CompiledValidationPipe(options) : new KnownFieldsPipe(options);
}

/** Makes a DTO of what is not the whole body. @throws InvalidRequestError */
export type Validate = <T extends object>(value: object, type: Class<T>) => Promise<T>;

export function validatorOf(pipe: ValidationPipe): Validate {
  return <T extends object>(value: object, type: Class<T>) =>
    pipe.transform(value, { type: 'body', metatype: type }) as Promise<T>;
}

function toFaults(error: ValidationError, parent: string): Fault[] {
  const pointer = `${parent}/${error.property.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  const { [OF_ANOTHER_KIND]: otherKind, ...constraints } = error.constraints ?? {};
  if (otherKind !== undefined) return [{ pointer, detail: otherKind }];
  const own = Object.values(constraints).map((detail) => ({ pointer, detail }));
  return [...own, ...(error.children ?? []).flatMap((child) => toFaults(child, pointer))];
}
