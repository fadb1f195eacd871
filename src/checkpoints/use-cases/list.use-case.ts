import { Injectable } from '@nestjs/common';
import { Settings } from '../../config/env.js';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import type { CheckpointFilter, CheckpointPage, TuplePart } from '../domain/checkpoint.js';

export interface ListInput {
  filter: CheckpointFilter;
  /** null: as many as LIST_DEFAULT_LIMIT says */
  limit: number | null;
  parts: TuplePart[];
}

@Injectable()
export class ListUseCase {
  constructor(
    private readonly checkpoints: CheckpointRepository,
    private readonly settings: Settings,
  ) {}

  /** One page of checkpoints, newest first. */
  execute({ filter, limit, parts }: ListInput): Promise<CheckpointPage> {
    return this.checkpoints.listCheckpoints(filter, limit ?? this.settings.listDefaultLimit, parts);
  }
}
