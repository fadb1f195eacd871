import { applyDecorators, Header, HttpCode, Post, type Type } from '@nestjs/common';
import {
  ApiBody,
  ApiConsumes,
  ApiExtraModels,
  ApiHeader,
  ApiNoContentResponse,
  ApiOkResponse,
  ApiOperation,
  getSchemaPath,
} from '@nestjs/swagger';
import { answering } from '../../request/caller.js';
import { ApiProblems, BEARER_SCHEME, KEY_SCHEME } from '../problems/problem.docs.js';

interface OperationOptions {
  /** Where the name alone is another operation's. */
  operationId?: string;
  summary: string;
  description: string;
  /** Of `lines`, that media type, there is no schema: OpenAPI knows none for texts of several JSON values. */
  request: { type: Type; example: object } | { lines: string; example: string };
  /** Absent: 204, no body. */
  answer?: {
    type: Type;
    isArray?: boolean;
    nullable?: boolean;
    map?: boolean;
    example: object;
    headers?: string[];
  };
}

/** How a caller may say who it is; `{}`, since with AUTH_MODE=none nobody is asked. */
const SECURITY: Record<string, string[]>[] = [{}, { [KEY_SCHEME]: [] }, { [BEARER_SCHEME]: [] }];

/** An operation of the contract: POST, JSON in and out, 200 with an answer or 204 without; and its page in Swagger UI. */
export function Operation(
  name: string,
  { operationId = name, summary, description, request, answer }: OperationOptions,
): MethodDecorator {
  return applyDecorators(
    ForCaller(),
    Post(name),
    ApiOperation({ operationId, summary, description, security: SECURITY }),
    ApiHeader({ name: 'x-tenant', required: false, description: 'The tenant that an admin acts for' }),
    ...requestDocs(request),
    ApiProblems(),
    ...(answer === undefined
      ? [HttpCode(204), ApiNoContentResponse({ description: 'Done' })]
      : [HttpCode(200), Header('Content-Type', 'application/json; charset=utf-8'), answerDocs(answer)]),
  );
}

/** The work of a caller that goes away before it is begun is not begun; the first argument is the request. */
function ForCaller(): MethodDecorator {
  return (_target, _name, descriptor: PropertyDescriptor) => {
    const answer = descriptor.value as (...request: unknown[]) => unknown;
    descriptor.value = function (this: unknown, ...request: unknown[]) {
      return answering(request[0], () => answer.apply(this, request));
    };
  };
}

function requestDocs(request: OperationOptions['request']): MethodDecorator[] {
  const examples = { capture: { summary: 'From a real agent', value: request.example as unknown } };
  if ('type' in request) return [ApiBody({ type: request.type, examples })];
  return [ApiConsumes(request.lines), ApiBody({ schema: { type: 'string' }, examples })];
}

function answerDocs(answer: NonNullable<OperationOptions['answer']>): MethodDecorator {
  const { type, isArray = false, nullable = false, map = false, example, headers = [] } = answer;
  const item = { $ref: getSchemaPath(type) };
  const schema = isArray
    ? { type: 'array', items: item }
    : map
      ? { type: 'object', additionalProperties: item }
      : nullable
        ? { nullable: true, allOf: [item] }
        : item;
  return applyDecorators(
    ApiExtraModels(type),
    ApiOkResponse({
      description: 'The answer',
      headers: Object.fromEntries(
        headers.map((header) => [
          header,
          { description: 'Present when rows were left out', schema: { type: 'string' } },
        ]),
      ),
      content: { 'application/json': { schema, example } },
    }),
  );
}
