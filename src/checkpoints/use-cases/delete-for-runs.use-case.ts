import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../thread.repository.js';

@Injectable()
export class DeleteForRunsUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Removes the checkpoints of the runs with what belongs to them alone, all or none. Safe to repeat. */
  async execute(runIds: string[]): Promise<void> {
    if (runIds.length > 0) await this.threads.deleteForRuns(runIds);
  }
}
