import { ApiProperty } from '@nestjs/swagger';
import { IsBoolean, IsOptional } from 'class-validator';
import type { PendingWrite } from '../domain/checkpoint.js';
import type { PutWritesInput } from '../use-cases/put-writes.use-case.js';
import { CheckpointKeyDto } from './checkpoint-key.dto.js';
import { IsArrayOf, IsBlob, IsId, IsIntegerFrom, IsText } from '../../http/validation/fields.js';
import { IsType, KeyFits } from './fields.js';

/** The range of Postgres's `integer`. */
const MIN_IDX = -(2 ** 31);
const MAX_IDX = 2 ** 31 - 1;

export class WriteDto {
  @ApiProperty()
  @IsId()
  task_id!: string;

  @ApiProperty({
    type: 'integer',
    minimum: MIN_IDX,
    maximum: MAX_IDX,
    description: "Negative for LangGraph's own channels",
  })
  @IsIntegerFrom(MIN_IDX, MAX_IDX)
  idx!: number;

  @ApiProperty()
  @IsText()
  channel!: string;

  @ApiProperty({ type: String, required: false, nullable: true })
  @IsOptional()
  @IsType()
  type?: string | null;

  @ApiProperty({ type: String, description: 'Standard Base64 with padding' })
  @IsBlob()
  blob!: Buffer;

  @ApiProperty({ type: String, required: false, default: '' })
  @IsOptional()
  @IsText()
  task_path?: string | null;

  toWrite(): PendingWrite {
    const { task_id: taskId, idx, channel, type = null, blob } = this;
    return { taskId, idx, channel, type, blob, taskPath: this.task_path ?? '' };
  }
}

export class PutWritesRequest extends CheckpointKeyDto {
  @ApiProperty({ type: [WriteDto] })
  @IsArrayOf(() => WriteDto)
  @KeyFits<PutWritesRequest, WriteDto>(({ thread_id, checkpoint_ns, checkpoint_id }, { task_id }) => [
    thread_id,
    checkpoint_ns,
    checkpoint_id,
    task_id,
  ])
  writes!: WriteDto[];

  @ApiProperty({
    type: Boolean,
    required: false,
    default: false,
    description: 'false keeps an existing write, true replaces its channel, type and blob',
  })
  @IsOptional()
  @IsBoolean({ message: 'must be true or false' })
  upsert?: boolean | null;

  toInput(): PutWritesInput {
    return {
      key: this.toKey(),
      writes: this.writes.map((write) => write.toWrite()),
      upsert: this.upsert ?? false,
    };
  }
}
