import { ApiProperty } from '@nestjs/swagger';
import { IsOptional } from 'class-validator';
import type { CheckpointKey } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { IsId, IsIdOrEmpty } from '../../http/validation/fields.js';
import { IsThreadId, KeyFits } from './fields.js';

export class ThreadDto {
  @ApiProperty({ type: String, description: 'A number is taken as its text' })
  @IsThreadId()
  thread_id!: StoredThreadId;
}

export class NamespaceDto extends ThreadDto {
  @ApiProperty({ type: String, required: false, default: '', description: 'Empty for the root graph' })
  @IsOptional()
  @IsIdOrEmpty()
  checkpoint_ns?: string | null;
}

/** A checkpoint, or the latest of its namespace. */
export class LatestOrKeyDto extends NamespaceDto {
  @ApiProperty({
    type: String,
    required: false,
    nullable: true,
    description: 'Absent, null or empty: the latest',
  })
  @IsOptional()
  @IsIdOrEmpty()
  checkpoint_id?: string | null;
}

export class CheckpointKeyDto extends NamespaceDto {
  @ApiProperty({ description: 'Ids are ordered byte by byte; the greatest one is the latest checkpoint' })
  @IsId()
  @KeyFits<CheckpointKeyDto>((request) => [request.thread_id, request.checkpoint_ns, request.checkpoint_id])
  checkpoint_id!: string;

  toKey(): CheckpointKey {
    return {
      threadId: this.thread_id,
      checkpointNs: this.checkpoint_ns ?? '',
      checkpointId: this.checkpoint_id,
    };
  }
}
