import { Injectable } from '@nestjs/common';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import type { CheckpointTuple, TuplePart } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';

export interface GetTupleInput {
  threadId: StoredThreadId;
  checkpointNs: string;
  /** null: the latest */
  checkpointId: string | null;
  parts: TuplePart[];
}

@Injectable()
export class GetTupleUseCase {
  constructor(private readonly checkpoints: CheckpointRepository) {}

  /** The checkpoint, or null: a thread's first run finds nothing, which is an answer. */
  execute({ threadId, checkpointNs, checkpointId, parts }: GetTupleInput): Promise<CheckpointTuple | null> {
    return this.checkpoints.findTuple(threadId, checkpointNs, checkpointId, parts);
  }
}
