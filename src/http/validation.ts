import { ValidationPipe } from '@nestjs/common';
import type { ValidationError } from 'class-validator';
import { type Fault, InvalidRequestError } from '../checkpoints/checkpoint.errors.js';

/** Makes a DTO of the parsed body, or refuses with every fault. */
export function validationPipe(): ValidationPipe {
  return new ValidationPipe({
    transform: true,
    exceptionFactory: (errors) => new InvalidRequestError(errors.flatMap((error) => toFaults(error, '#'))),
  });
}

function toFaults(error: ValidationError, parent: string): Fault[] {
  const pointer = `${parent}/${error.property.replaceAll('~', '~0').replaceAll('/', '~1')}`;
  const own = Object.values(error.constraints ?? {}).map((detail) => ({ pointer, detail }));
  return [...own, ...(error.children ?? []).flatMap((child) => toFaults(child, pointer))];
}
