import { ApiProperty } from '@nestjs/swagger';
import { IsOptional } from 'class-validator';
import { JsonText } from '../../http/exact-json/exact-json.js';
import type { ChannelBlob, CheckpointKey, NewCheckpoint } from '../domain/checkpoint.js';
import { callersThreadId } from '../domain/tenant.js';
import { CheckpointKeyDto } from './checkpoint-key.dto.js';
import { documentText } from './document.js';
import { IsArrayOf, IsBlob, IsIdOrEmpty, IsJsonObject, IsText } from '../../http/validation/fields.js';
import { IsType, IsVersion, KeyFits } from './fields.js';

export class BlobDto {
  @ApiProperty()
  @IsText()
  channel!: string;

  @ApiProperty({
    oneOf: [{ type: 'string' }, { type: 'number' }],
    description: 'Stored as text, a number as Postgres prints it: 1.0 is not 1',
  })
  @IsVersion()
  version!: string;

  @ApiProperty({ description: "The serialiser's name for the bytes, such as msgpack" })
  @IsType()
  type!: string;

  @ApiProperty({ type: String, required: false, nullable: true, description: 'Standard Base64 with padding' })
  @IsOptional()
  @IsBlob()
  blob?: Buffer | null;

  toBlob(): ChannelBlob {
    const { channel, version, type, blob = null } = this;
    return { channel, version, type, blob };
  }
}

export class PutRequest extends CheckpointKeyDto {
  @ApiProperty({ type: String, required: false, nullable: true })
  @IsOptional()
  @IsIdOrEmpty()
  parent_checkpoint_id?: string | null;

  @ApiProperty({
    type: 'object',
    additionalProperties: true,
    description: 'Kept as jsonb keeps it, to the last digit',
  })
  @IsJsonObject()
  checkpoint!: JsonText;

  @ApiProperty({ type: 'object', additionalProperties: true, selfRequired: false, default: {} })
  @IsOptional()
  @IsJsonObject()
  metadata?: JsonText | null;

  @ApiProperty({ type: [BlobDto], required: false, default: [] })
  @IsOptional()
  @IsArrayOf(() => BlobDto)
  @KeyFits<PutRequest, BlobDto>(({ thread_id, checkpoint_ns }, { channel, version }) => [
    thread_id,
    checkpoint_ns,
    channel,
    version,
  ])
  blobs?: BlobDto[] | null;

  toInput(): NewCheckpoint {
    return {
      key: this.toKey(),
      parentCheckpointId: this.parent_checkpoint_id ?? null,
      checkpoint: documentText('checkpoint', this.checkpoint),
      metadata: this.metadata ? documentText('metadata', this.metadata) : '{}',
      blobs: (this.blobs ?? []).map((blob) => blob.toBlob()),
    };
  }
}

export class PutResponse {
  @ApiProperty()
  thread_id!: string;

  @ApiProperty()
  checkpoint_ns!: string;

  @ApiProperty()
  checkpoint_id!: string;

  static of({ threadId, checkpointNs, checkpointId }: CheckpointKey): PutResponse {
    return {
      thread_id: callersThreadId(threadId),
      checkpoint_ns: checkpointNs,
      checkpoint_id: checkpointId,
    };
  }
}
