import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../sql/thread.repository.js';
import type { StoredThreadId } from '../domain/tenant.js';

@Injectable()
export class DeleteThreadUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Removes the thread, also when there is none. Safe to repeat. */
  execute(threadId: StoredThreadId): Promise<void> {
    return this.threads.deleteThreads([threadId]);
  }
}
