import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../thread.repository.js';

@Injectable()
export class DeleteThreadUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Removes the thread, also when there is none. Safe to repeat. */
  execute(threadId: string): Promise<void> {
    return this.threads.deleteThreads([threadId]);
  }
}
