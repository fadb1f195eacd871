import { applyDecorators } from '@nestjs/common';
import { ApiExtraModels, ApiProperty, ApiResponse, getSchemaPath } from '@nestjs/swagger';
import { PROBLEMS } from './problem.js';

/** The names that the OpenAPI document has for a key in its header, and for a bearer's. */
export const KEY_SCHEME = 'key';
export const BEARER_SCHEME = 'bearer';

class FaultSchema {
  @ApiProperty({
    example: '#/writes/0/idx',
    description: 'JSON pointer into the request, in URI fragment form',
  })
  pointer!: string;

  @ApiProperty({ example: 'must be an integer from -2147483648 to 2147483647' })
  detail!: string;
}

/** RFC 9457 */
export class ProblemSchema {
  @ApiProperty({
    example: '/problems/invalid-request',
    description: 'Stable; about:blank when the status says it all',
  })
  type!: string;

  @ApiProperty({ type: 'integer', example: 422 })
  status!: number;

  @ApiProperty({ example: 'The request does not fit the operation' })
  title!: string;

  @ApiProperty({ required: false, example: 'The request has a fault' })
  detail?: string;

  @ApiProperty({ required: false, type: [FaultSchema] })
  errors?: FaultSchema[];
}

/** Documents every problem that an operation may answer, from the table of problems. */
export function ApiProblems(): MethodDecorator {
  const byStatus = new Map<number, string[]>();
  for (const [code, { status, when }] of Object.entries(PROBLEMS)) {
    byStatus.set(status, [...(byStatus.get(status) ?? []), `\`/problems/${code}\`: ${when}`]);
  }
  byStatus.set(500, ['`about:blank`: a fault of the service; nothing of its text leaves the process']);
  return applyDecorators(
    ApiExtraModels(ProblemSchema),
    ...[...byStatus].map(([status, lines]) =>
      ApiResponse({
        status,
        description: lines.join('\n\n'),
        ...(status === 503 && {
          headers: { 'Retry-After': { description: 'Seconds', schema: { type: 'integer' } } },
        }),
        content: { 'application/problem+json': { schema: { $ref: getSchemaPath(ProblemSchema) } } },
      }),
    ),
  );
}
