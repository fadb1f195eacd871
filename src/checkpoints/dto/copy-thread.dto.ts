import { ApiProperty } from '@nestjs/swagger';
import type { StoredThreadId } from '../domain/tenant.js';
import type { CopyThreadInput } from '../use-cases/copy-thread.use-case.js';
import { IsThreadId } from './fields.js';

export class CopyThreadRequest {
  @ApiProperty({ type: String })
  @IsThreadId()
  source_thread_id!: StoredThreadId;

  @ApiProperty({ type: String, description: 'Rows that it has already are kept' })
  @IsThreadId()
  target_thread_id!: StoredThreadId;

  toInput(): CopyThreadInput {
    return { sourceThreadId: this.source_thread_id, targetThreadId: this.target_thread_id };
  }
}
