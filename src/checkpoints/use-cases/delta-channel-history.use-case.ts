import { Injectable } from '@nestjs/common';
import { CheckpointRepository } from '../checkpoint.repository.js';
import type { ChannelHistory } from '../checkpoint.js';
import type { StoredThreadId } from '../tenant.js';

export interface DeltaChannelHistoryInput {
  threadId: StoredThreadId;
  checkpointNs: string;
  /** null: the latest */
  checkpointId: string | null;
  channels: string[];
}

@Injectable()
export class DeltaChannelHistoryUseCase {
  constructor(private readonly checkpoints: CheckpointRepository) {}

  /** What each channel is rebuilt from; without writes and seed where the checkpoint or its ancestors are not there. */
  execute({
    threadId,
    checkpointNs,
    checkpointId,
    channels,
  }: DeltaChannelHistoryInput): Promise<Map<string, ChannelHistory>> {
    return this.checkpoints.findChannelHistories(threadId, checkpointNs, checkpointId, channels);
  }
}
