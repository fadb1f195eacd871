import { ApiProperty } from '@nestjs/swagger';
import { IsOptional } from 'class-validator';
import type { ServerResponse } from 'node:http';
import type { JsonWithBlobs } from '../../http/exact-json/json-with-blobs.js';
import { tenantOf } from '../../request/caller.js';
import { JsonText } from '../../http/exact-json/exact-json.js';
import { TUPLE_PARTS, type CheckpointPage, type TuplePart } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import type { ListInput } from '../use-cases/list.use-case.js';
import { type FixedKey, cursorOf, keyOf } from './cursor.js';
import { documentText } from './document.js';
import { IsIdOrEmpty, IsIntegerFrom, IsListOf } from '../../http/validation/fields.js';
import { IsCursor, IsMetadataFilter, IsThreadId } from './fields.js';
import { answerOf, TupleResponse } from './tuple.response.js';

export class ListRequest {
  @ApiProperty({
    type: String,
    required: false,
    nullable: true,
    description: 'Absent or null: every thread of the tenant',
  })
  @IsOptional()
  @IsThreadId()
  thread_id?: StoredThreadId | null;

  @ApiProperty({
    type: String,
    required: false,
    nullable: true,
    description: 'Absent or null: every namespace; empty: the root graph alone',
  })
  @IsOptional()
  @IsIdOrEmpty()
  checkpoint_ns?: string | null;

  @ApiProperty({ type: String, required: false, nullable: true, description: 'That one checkpoint' })
  @IsOptional()
  @IsIdOrEmpty()
  checkpoint_id?: string | null;

  @ApiProperty({ type: String, required: false, nullable: true, description: 'Exclusive' })
  @IsOptional()
  @IsIdOrEmpty()
  before_checkpoint_id?: string | null;

  @ApiProperty({
    type: 'object',
    additionalProperties: true,
    selfRequired: false,
    nullable: true,
    description:
      'What metadata must contain, as jsonb containment (@>) has it. At most 65,536 bytes and 1,000 values, of which 16 may be ' +
      'inside arrays, 4 of these objects or arrays',
  })
  @IsOptional()
  @IsMetadataFilter()
  filter_metadata?: JsonText | null;

  @ApiProperty({
    type: 'integer',
    required: false,
    nullable: true,
    minimum: 1,
    maximum: 1000,
    description: 'Absent: LIST_DEFAULT_LIMIT',
  })
  @IsOptional()
  @IsIntegerFrom(1, 1000)
  limit?: number | null;

  @ApiProperty({
    type: String,
    required: false,
    nullable: true,
    description: 'The x-next-cursor of the page before; all else as in its request',
  })
  @IsOptional()
  @IsCursor<ListRequest>((request) => request.fixedKey())
  cursor?: string | null;

  @ApiProperty({
    required: false,
    nullable: true,
    isArray: true,
    enum: TUPLE_PARTS,
    description: 'What to answer beside each checkpoint. Absent: nothing',
  })
  @IsOptional()
  @IsListOf(TUPLE_PARTS)
  include?: TuplePart[] | null;

  fixedKey(): FixedKey {
    return { threadId: this.thread_id ?? null, checkpointNs: this.checkpoint_ns ?? null };
  }

  toInput(): ListInput {
    const tenant = tenantOf(this);
    return {
      filter: {
        threads: this.thread_id ?? { tenant },
        checkpointNs: this.checkpoint_ns ?? null,
        checkpointId: this.checkpoint_id || null,
        beforeCheckpointId: this.before_checkpoint_id || null,
        metadata: this.filter_metadata ? documentText('filter_metadata', this.filter_metadata) : null,
        after: this.cursor ? keyOf(this.cursor, tenant, this.fixedKey()) : null,
      },
      limit: this.limit ?? null,
      parts: this.include ?? [],
    };
  }

  /** The answer to this request. When rows were left out, the header x-next-cursor says where to go on. */
  toAnswer(page: CheckpointPage, response: ServerResponse): string | JsonWithBlobs {
    if (page.next !== null) response.setHeader('x-next-cursor', cursorOf(page.next, this.fixedKey()));
    return answerOf(
      (large) =>
        `[${page.tuples.map((tuple) => TupleResponse.json(tuple, { taskPath: true }, large)).join()}]`,
    );
  }
}
