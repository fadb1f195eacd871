import { ApiProperty } from '@nestjs/swagger';
import type { ChannelHistory } from '../checkpoint.js';
import type { DeltaChannelHistoryInput } from '../use-cases/delta-channel-history.use-case.js';
import { LatestOrKeyDto } from './checkpoint-key.dto.js';
import { IsTextList } from './fields.js';
import { text } from './tuple.response.js';

export class DeltaChannelHistoryRequest extends LatestOrKeyDto {
  @ApiProperty({ type: [String] })
  @IsTextList()
  channels!: string[];

  toInput(): DeltaChannelHistoryInput {
    return {
      threadId: this.thread_id,
      checkpointNs: this.checkpoint_ns ?? '',
      checkpointId: this.checkpoint_id || null,
      channels: [...new Set(this.channels)],
    };
  }
}

/** The history of one channel on the wire. */
export class ChannelHistoryResponse {
  @ApiProperty({
    type: 'array',
    items: { type: 'object' },
    description: 'Oldest first: `{checkpoint_id, task_id, idx, type, blob, task_path}`',
  })
  writes!: object[];

  @ApiProperty({
    type: 'object',
    additionalProperties: true,
    selfRequired: false,
    description:
      '`{type, blob}` or, for a value that stands in the checkpoint itself, `{value}`; absent: start empty',
  })
  seed?: object;

  static json(histories: Map<string, ChannelHistory>): string {
    const members = [...histories].map(([channel, { writes, seed }]) => {
      const list = writes.map(
        ({ checkpointId, taskId, idx, type, blob, taskPath }) =>
          `{"checkpoint_id":${text(checkpointId)},"task_id":${text(taskId)},"idx":${idx},"type":${text(type)}` +
          `,"blob":"${blob}","task_path":${text(taskPath)}}`,
      );
      return `${text(channel)}:{"writes":[${list.join()}]${seed === null ? '' : `,"seed":${seedJson(seed)}`}}`;
    });
    return `{${members.join()}}`;
  }
}

function seedJson(seed: NonNullable<ChannelHistory['seed']>): string {
  if ('value' in seed) return `{"value":${seed.value}}`;
  return `{"type":${text(seed.type)},"blob":${seed.base64 === null ? 'null' : `"${seed.base64}"`}}`;
}
