import { Injectable } from '@nestjs/common';
import { Settings } from '../../config/env.js';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import type { ChannelHistory } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';

export interface DeltaChannelHistoryInput {
  threadId: StoredThreadId;
  checkpointNs: string;
  /** null: the latest */
  checkpointId: string | null;
  channels: string[];
}

@Injectable()
export class DeltaChannelHistoryUseCase {
  constructor(
    private readonly checkpoints: CheckpointRepository,
    private readonly settings: Settings,
  ) {}

  /** What each channel is rebuilt from; without writes and seed where the checkpoint or its ancestors are not there. @throws LimitExceededError */
  execute(input: DeltaChannelHistoryInput): Promise<Map<string, ChannelHistory>> {
    const { tupleLimitBytes: bytes, statementTimeoutMs: milliseconds } = this.settings;
    return this.checkpoints.findChannelHistories(input, { bytes, milliseconds });
  }
}
