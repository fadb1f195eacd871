import { Injectable } from '@nestjs/common';
import type { TenantThreads } from '../domain/tenant.js';
import { ThreadRepository } from '../sql/thread.repository.js';

export interface DeleteForRunsInput {
  runIds: string[];
  threads: TenantThreads;
}

@Injectable()
export class DeleteForRunsUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Removes the checkpoints of the runs with what belongs to them alone, each thread at once. Safe to repeat. */
  async execute({ runIds, threads }: DeleteForRunsInput): Promise<void> {
    if (runIds.length > 0) await this.threads.deleteForRuns(runIds, threads);
  }
}
