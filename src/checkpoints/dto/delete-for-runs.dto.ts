import { ApiProperty } from '@nestjs/swagger';
import { IsIdList } from './fields.js';

export class DeleteForRunsRequest {
  @ApiProperty({ type: [String], description: 'Compared with `metadata.run_id`' })
  @IsIdList()
  run_ids!: string[];
}
