import { ApiProperty } from '@nestjs/swagger';
import { tenantOf } from '../../request/caller.js';
import type { DeleteForRunsInput } from '../use-cases/delete-for-runs.use-case.js';
import { IsIdList } from '../../http/validation/fields.js';

export class DeleteForRunsRequest {
  @ApiProperty({ type: [String], description: 'Compared with `metadata.run_id`' })
  @IsIdList()
  run_ids!: string[];

  toInput(): DeleteForRunsInput {
    return { runIds: this.run_ids, threads: { tenant: tenantOf(this) } };
  }
}
