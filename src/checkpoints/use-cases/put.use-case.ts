import { Injectable } from '@nestjs/common';
import { Settings } from '../../config/env.js';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import { LimitExceededError } from '../../errors/errors.js';
import type { ChannelBlob, CheckpointKey, NewCheckpoint } from '../domain/checkpoint.js';

@Injectable()
export class PutUseCase {
  constructor(
    private readonly checkpoints: CheckpointRepository,
    private readonly settings: Settings,
  ) {}

  /** Stores a checkpoint with its blobs. Safe to repeat. @throws LimitExceededError, UnstorableDocumentError */
  async execute(checkpoint: NewCheckpoint): Promise<CheckpointKey> {
    const { blobLimitBytes } = this.settings;
    // A version of a channel never changes, so of two blobs for it the first is kept, as if it were stored already.
    const kept = new Map<string, ChannelBlob>();
    for (const blob of checkpoint.blobs) {
      if (blob.blob !== null && blob.blob.length > blobLimitBytes) {
        throw new LimitExceededError(
          `The blob of channel "${blob.channel}"`,
          'BLOB_LIMIT_BYTES',
          blobLimitBytes,
        );
      }
      const slot = JSON.stringify([blob.channel, blob.version]);
      if (!kept.has(slot)) kept.set(slot, blob);
    }
    await this.checkpoints.upsertCheckpoint({ ...checkpoint, blobs: [...kept.values()] });
    return checkpoint.key;
  }
}
