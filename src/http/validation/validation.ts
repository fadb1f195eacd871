import type { ValidationPipe, ValidationPipeOptions } from '@nestjs/common';
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

function toFaults(error: ValidationError, parent: string): Fault[] {
  const pointer = `${parent}/${error.property.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  const { [OF_ANOTHER_KIND]: otherKind, ...constraints } = error.constraints ?? {};
  if (otherKind !== undefined) return [{ pointer, detail: otherKind }];
  const own = Object.values(constraints).map((detail) => ({ pointer, detail }));
  return [...own, ...(error.children ?? []).flatMap((child) => toFaults(child, pointer))];
}
