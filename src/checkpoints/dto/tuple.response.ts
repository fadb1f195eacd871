import { ApiProperty } from '@nestjs/swagger';
import { JsonWithBlobs, PLACE } from '../../http/exact-json/json-with-blobs.js';
import { LimitExceededError } from '../../errors/errors.js';
import type { CheckpointTuple, StoredBlob, StoredBytes, StoredWrite } from '../domain/checkpoint.js';
import { callersThreadId } from '../domain/tenant.js';

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

  /** In the text large blobs have but their places; `large` gets them. */
  static json(tuple: CheckpointTuple, options: { taskPath: boolean }, large: Buffer[]): string {
    const { key, parentCheckpointId, checkpoint, metadata, blobs, pendingWrites, pendingSends } = tuple;
    const writesJson = (writes: StoredWrite[]) =>
      writes
        .map((write) => (options.taskPath ? writeWithPathJson(write, large) : writeJson(write, large)))
        .join();
    return (
      `{"thread_id":${text(callersThreadId(key.threadId))},"checkpoint_ns":${text(key.checkpointNs)}` +
      `,"checkpoint_id":${text(key.checkpointId)},"parent_checkpoint_id":${text(parentCheckpointId)}` +
      `,"checkpoint":${checkpoint},"metadata":${metadata}` +
      (blobs === undefined ? '' : `,"blobs":[${blobs.map((blob) => blobJson(blob, large)).join()}]`) +
      (pendingWrites === undefined ? '' : `,"pending_writes":[${writesJson(pendingWrites)}]`) +
      (pendingSends === undefined ? '' : `,"pending_sends":[${writesJson(pendingSends)}]`) +
      '}'
    );
  }
}

/** In characters: V8 makes no longer string. */
const MAX_STRING = 2 ** 29 - 24;

/** An answer as `make` writes it, which gives the large blobs of its places to the list. @throws LimitExceededError */
export function answerOf(make: (large: Buffer[]) => string): string | JsonWithBlobs {
  const large: Buffer[] = [];
  try {
    const json = make(large);
    return large.length === 0 ? json : new JsonWithBlobs(json, large);
  } catch (error) {
    // Bytes are bounded as they are read; a name of control characters becomes six times as long as it was.
    if (error instanceof RangeError) throw new LimitExceededError('The answer', 'of V8', MAX_STRING);
    throw error;
  }
}

/** In bytes: less is part of the text. */
const LARGE = 64 * 1024;
const NEEDS_ESCAPING = /["\\\u0000-\u001f\ud800-\udfff]/;

/** A JSON string, or null. `JSON.stringify` takes twice as long, which is half of what a list of 100 takes here. */
export function text(value: string | null): string {
  return value === null || NEEDS_ESCAPING.test(value) ? JSON.stringify(value) : `"${value}"`;
}

/** Base64 has no character that JSON escapes. */
function bytesJson(bytes: StoredBytes | null, large: Buffer[]): string {
  if (bytes === null) return 'null';
  if (typeof bytes === 'string') return `"${bytes}"`;
  if (bytes.length < LARGE) return `"${bytes.toString('base64')}"`;
  large.push(bytes);
  return `"${PLACE}"`;
}

function blobJson({ channel, version, type, blob }: StoredBlob, large: Buffer[]): string {
  return `{"channel":${text(channel)},"version":${text(version)},"type":${text(type)},"blob":${bytesJson(blob, large)}}`;
}

function writeJson({ taskId, idx, channel, type, blob }: StoredWrite, large: Buffer[]): string {
  return `{"task_id":${text(taskId)},"idx":${idx},"channel":${text(channel)},"type":${text(type)},"blob":${bytesJson(blob, large)}}`;
}

function writeWithPathJson(write: StoredWrite, large: Buffer[]): string {
  return `${writeJson(write, large).slice(0, -1)},"task_path":${text(write.taskPath)}}`;
}
