import { setImmediate } from 'node:timers/promises';
import { ApiProperty } from '@nestjs/swagger';
import { type ChannelHistory, type HistoryWrite, MAX_DELTA_CHANNELS } from '../domain/checkpoint.js';
import type { DeltaChannelHistoryInput } from '../use-cases/delta-channel-history.use-case.js';
import { LatestOrKeyDto } from './checkpoint-key.dto.js';
import { IsTextList } from '../../http/validation/fields.js';
import { text } from './tuple.response.js';

/** Some 10 ms of work. */
const WRITES_AT_ONCE = 10_000;

export class DeltaChannelHistoryRequest extends LatestOrKeyDto {
  @ApiProperty({
    type: [String],
    maxItems: MAX_DELTA_CHANNELS,
    description: 'One that is there twice counts once',
  })
  @IsTextList(MAX_DELTA_CHANNELS)
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

  /** Others get their turn meanwhile: a history may have many writes. */
  static async json(histories: Map<string, ChannelHistory>): Promise<string> {
    const members: string[] = [];
    for (const [channel, { writes, seed }] of histories) {
      const parts: string[] = [];
      for (let at = 0; at < writes.length; at += WRITES_AT_ONCE) {
        if (at > 0) await setImmediate();
        parts.push(
          writes
            .slice(at, at + WRITES_AT_ONCE)
            .map(writeJson)
            .join(),
        );
      }
      members.push(
        `${text(channel)}:{"writes":[${parts.join()}]${seed === null ? '' : `,"seed":${seedJson(seed)}`}}`,
      );
    }
    return `{${members.join()}}`;
  }
}

function writeJson({ checkpointId, taskId, idx, type, blob, taskPath }: HistoryWrite): string {
  return (
    `{"checkpoint_id":${text(checkpointId)},"task_id":${text(taskId)},"idx":${idx},"type":${text(type)}` +
    `,"blob":"${blob}","task_path":${text(taskPath)}}`
  );
}

function seedJson(seed: NonNullable<ChannelHistory['seed']>): string {
  if ('value' in seed) return `{"value":${seed.value}}`;
  return `{"type":${text(seed.type)},"blob":${seed.base64 === null ? 'null' : `"${seed.base64}"`}}`;
}
