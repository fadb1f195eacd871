import { ApiProperty } from '@nestjs/swagger';
import { IsOptional } from 'class-validator';
import type { JsonWithBlobs } from '../../http/exact-json/json-with-blobs.js';
import { TUPLE_PARTS, type CheckpointTuple, type TuplePart } from '../domain/checkpoint.js';
import type { GetTupleInput } from '../use-cases/get-tuple.use-case.js';
import { LatestOrKeyDto } from './checkpoint-key.dto.js';
import { IsListOf } from '../../http/validation/fields.js';
import { answerOf, TupleResponse } from './tuple.response.js';

export class GetTupleRequest extends LatestOrKeyDto {
  @ApiProperty({
    required: false,
    nullable: true,
    isArray: true,
    enum: TUPLE_PARTS,
    description:
      'What to answer beside the checkpoint. Absent: blobs and pending_writes, these without task_path',
  })
  @IsOptional()
  @IsListOf(TUPLE_PARTS)
  include?: TuplePart[] | null;

  toInput(): GetTupleInput {
    return {
      threadId: this.thread_id,
      checkpointNs: this.checkpoint_ns ?? '',
      checkpointId: this.checkpoint_id || null,
      parts: this.include ?? ['blobs', 'pending_writes'],
    };
  }

  /** The answer to this request: the tuple, or `null` when there is none. */
  toAnswer(tuple: CheckpointTuple | null): string | JsonWithBlobs {
    if (tuple === null) return 'null';
    return answerOf((large) => TupleResponse.json(tuple, { taskPath: this.include != null }, large));
  }
}
