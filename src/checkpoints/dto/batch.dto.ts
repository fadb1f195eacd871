import type { ServerResponse } from 'node:http';
import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import { ApiProperty } from '@nestjs/swagger';
import type { BatchBody, BatchItem } from '../../http/body/batch-body.js';
import { ProblemSchema } from '../../http/problems/problem.docs.js';
import { noteProblem, type Problem } from '../../http/problems/problem.filter.js';
import type { Validate } from '../../http/validation/validation.js';
import { CLIENT_CLOSED_REQUEST } from '../../observability/metrics/metrics.js';
import { type Caller, CallerGoneError, callerOf, setCaller } from '../../request/caller.js';
import type { BatchedOutcome, BatchedStore } from '../use-cases/batch.use-case.js';
import { PutWritesRequest } from './put-writes.dto.js';
import { PutRequest, PutResponse } from './put.dto.js';

/** The body of a batch as it was read; its requests have not been checked. */
export const Batched = createParamDecorator(
  (_data: unknown, context: ExecutionContext) =>
    context.switchToHttp().getRequest<{ body: BatchBody }>().body,
);

/** Reads and checks each request as if it had come alone, when it is asked for. */
export function readsOf(batch: BatchBody, validate: Validate): (() => Promise<BatchedStore>)[] {
  const caller = batchCallerOf(batch);
  return batch.items.map((item) => () => storeOf(item, caller, validate));
}

export function batchCallerOf(batch: BatchBody): Caller {
  const caller = callerOf(batch);
  if (caller === undefined) throw new Error('A batch without a caller');
  return caller;
}

async function storeOf(item: BatchItem, caller: Caller, validate: Validate): Promise<BatchedStore> {
  try {
    const request = item.read();
    setCaller(request, caller);
    if (item.operation === 'put') {
      return { caller: caller.part(), put: (await validate(request, PutRequest)).toInput() };
    }
    return { caller: caller.part(), putWrites: (await validate(request, PutWritesRequest)).toInput() };
  } catch (error) {
    return { refused: error };
  }
}

class BatchResult {
  @ApiProperty({ type: 'integer', description: 'What the operation would have been answered with alone' })
  status!: number;

  @ApiProperty({ required: false, type: PutResponse, description: 'Of `put`, with status 200' })
  answer?: PutResponse;

  @ApiProperty({ required: false, type: ProblemSchema, description: 'With status 400 and above' })
  problem?: Problem;
}

export class BatchResponse {
  @ApiProperty({ type: [BatchResult], description: 'In the order of the operations' })
  results!: BatchResult[];

  /** Errors of the service are left to the response's line in the log. */
  static of(outcomes: BatchedOutcome[], response: ServerResponse): BatchResponse {
    return { results: outcomes.map((outcome) => resultOf(outcome, response)) };
  }
}

function resultOf(outcome: BatchedOutcome, response: ServerResponse): BatchResult {
  if ('error' in outcome && outcome.error instanceof CallerGoneError)
    return { status: CLIENT_CLOSED_REQUEST };
  if ('error' in outcome) {
    const problem = noteProblem(outcome.error, response);
    return { status: problem.status, problem };
  }
  const { stored } = outcome;
  return stored === null ? { status: 204 } : { status: 200, answer: PutResponse.of(stored) };
}
