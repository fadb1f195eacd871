import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../sql/thread.repository.js';
import type { StoredThreadId } from '../domain/tenant.js';

export type PruneStrategy = 'keep_latest' | 'delete';

export interface PruneInput {
  threadIds: StoredThreadId[];
  strategy: PruneStrategy;
}

@Injectable()
export class PruneUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Thins out threads, each at once; see `ThreadRepository`. Safe to repeat. */
  async execute({ threadIds, strategy }: PruneInput): Promise<void> {
    if (threadIds.length === 0) return;
    await (strategy === 'delete'
      ? this.threads.deleteThreads(threadIds)
      : this.threads.keepLatest(threadIds));
  }
}
