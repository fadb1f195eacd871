import { ApiProperty } from '@nestjs/swagger';
import { IsIn } from 'class-validator';
import type { StoredThreadId } from '../domain/tenant.js';
import type { PruneInput, PruneStrategy } from '../use-cases/prune.use-case.js';
import { IsThreadIdList } from './fields.js';

const STRATEGIES: PruneStrategy[] = ['keep_latest', 'delete'];

export class PruneRequest {
  @ApiProperty({ type: [String] })
  @IsThreadIdList()
  thread_ids!: StoredThreadId[];

  @ApiProperty({
    enum: STRATEGIES,
    description:
      '`keep_latest`: the newest checkpoint of each namespace, and the ancestors that its delta channels are rebuilt from; ' +
      '`delete`: nothing',
  })
  @IsIn(STRATEGIES, { message: `must be one of ${STRATEGIES.join(', ')}` })
  strategy!: PruneStrategy;

  toInput(): PruneInput {
    return { threadIds: this.thread_ids, strategy: this.strategy };
  }
}
