import { ApiProperty } from '@nestjs/swagger';
import type { CheckpointTuple, StoredBlob, StoredWrite } from '../checkpoint.js';
import { callersThreadId } from '../tenant.js';

class BlobResponse {
  @ApiProperty()
  channel!: string;

  @ApiProperty()
  version!: string;

  @ApiProperty()
  type!: string;

  @ApiProperty({
    type: String,
    nullable: true,
    description: 'Standard Base64 with padding; null for an empty channel',
  })
  blob!: string | null;
}

class WriteResponse {
  @ApiProperty()
  task_id!: string;

  @ApiProperty({ type: 'integer' })
  idx!: number;

  @ApiProperty()
  channel!: string;

  @ApiProperty({ type: String, nullable: true })
  type!: string | null;

  @ApiProperty({ description: 'Standard Base64 with padding' })
  blob!: string;

  @ApiProperty({ required: false, description: 'Only when `include` was sent' })
  task_path?: string;
}

/** A checkpoint on the wire. Its JSON is put together from texts: checkpoint and metadata come as Postgres printed them. */
export class TupleResponse {
  @ApiProperty()
  thread_id!: string;

  @ApiProperty()
  checkpoint_ns!: string;

  @ApiProperty()
  checkpoint_id!: string;

  @ApiProperty({ type: String, nullable: true })
  parent_checkpoint_id!: string | null;

  @ApiProperty({ type: 'object', additionalProperties: true })
  checkpoint!: Record<string, unknown>;

  @ApiProperty({ type: 'object', additionalProperties: true })
  metadata!: Record<string, unknown>;

  @ApiProperty({ required: false, type: [BlobResponse], description: 'Those that channel_versions names' })
  blobs?: BlobResponse[];

  @ApiProperty({ required: false, type: [WriteResponse], description: 'Ordered by task_id, then idx' })
  pending_writes?: WriteResponse[];

  @ApiProperty({
    required: false,
    type: [WriteResponse],
    description: "The parent's writes to `__pregel_tasks`, ordered by task_path, task_id, idx",
  })
  pending_sends?: WriteResponse[];

  static json(tuple: CheckpointTuple, options: { taskPath: boolean }): string {
    const { key, parentCheckpointId, checkpoint, metadata, blobs, pendingWrites, pendingSends } = tuple;
    const write = options.taskPath ? writeWithPathJson : writeJson;
    return (
      `{"thread_id":${text(callersThreadId(key.threadId))},"checkpoint_ns":${text(key.checkpointNs)}` +
      `,"checkpoint_id":${text(key.checkpointId)},"parent_checkpoint_id":${text(parentCheckpointId)}` +
      `,"checkpoint":${checkpoint},"metadata":${metadata}` +
      (blobs === undefined ? '' : `,"blobs":[${blobs.map(blobJson).join()}]`) +
      (pendingWrites === undefined ? '' : `,"pending_writes":[${pendingWrites.map(write).join()}]`) +
      (pendingSends === undefined ? '' : `,"pending_sends":[${pendingSends.map(write).join()}]`) +
      '}'
    );
  }
}

const NEEDS_ESCAPING = /["\\\u0000-\u001f\ud800-\udfff]/;

/** A JSON string, or null. `JSON.stringify` takes twice as long, which is half of what a list of 100 takes here. */
export function text(value: string | null): string {
  return value === null || NEEDS_ESCAPING.test(value) ? JSON.stringify(value) : `"${value}"`;
}

/** Base64 has no character that JSON escapes. */
function blobJson({ channel, version, type, base64 }: StoredBlob): string {
  const blob = base64 === null ? 'null' : `"${base64}"`;
  return `{"channel":${text(channel)},"version":${text(version)},"type":${text(type)},"blob":${blob}}`;
}

function writeJson({ taskId, idx, channel, type, base64 }: StoredWrite): string {
  return `{"task_id":${text(taskId)},"idx":${idx},"channel":${text(channel)},"type":${text(type)},"blob":"${base64}"}`;
}

function writeWithPathJson(write: StoredWrite): string {
  return `${writeJson(write).slice(0, -1)},"task_path":${text(write.taskPath)}}`;
}
