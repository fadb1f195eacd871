import { Injectable } from '@nestjs/common';
import { Settings } from '../../config/env.js';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import { LimitExceededError } from '../../errors/errors.js';
import type { CheckpointKey, PendingWrite } from '../domain/checkpoint.js';

export interface PutWritesInput {
  key: CheckpointKey;
  writes: PendingWrite[];
  upsert: boolean;
}

@Injectable()
export class PutWritesUseCase {
  constructor(
    private readonly checkpoints: CheckpointRepository,
    private readonly settings: Settings,
  ) {}

  /** Stores pending writes, also before their checkpoint. Safe to repeat. @throws LimitExceededError */
  async execute({ key, writes, upsert }: PutWritesInput): Promise<void> {
    const { blobLimitBytes } = this.settings;
    // A node that resumes twice sends RESUME twice, so one (task, index) may occur again. Postgres
    // cannot update a row twice in one statement; keep what writing row by row would have kept.
    const kept = new Map<string, PendingWrite>();
    for (const write of writes) {
      if (write.blob.length > blobLimitBytes) {
        throw new LimitExceededError(
          `The write to channel "${write.channel}"`,
          'BLOB_LIMIT_BYTES',
          blobLimitBytes,
        );
      }
      const slot = `${write.idx}:${write.taskId}`;
      const before = kept.get(slot);
      if (before === undefined) kept.set(slot, write);
      else if (upsert) kept.set(slot, { ...write, taskPath: before.taskPath });
    }
    if (kept.size === 0) return;
    const rows = [...kept.values()];
    await (upsert ? this.checkpoints.upsertWrites(key, rows) : this.checkpoints.insertWrites(key, rows));
  }
}
