import { ApiProperty } from '@nestjs/swagger';
import type { CopyThreadInput } from '../use-cases/copy-thread.use-case.js';
import { IsId } from './fields.js';

export class CopyThreadRequest {
  @ApiProperty()
  @IsId()
  source_thread_id!: string;

  @ApiProperty({ description: 'Rows that it has already are kept' })
  @IsId()
  target_thread_id!: string;

  toInput(): CopyThreadInput {
    return { sourceThreadId: this.source_thread_id, targetThreadId: this.target_thread_id };
  }
}
