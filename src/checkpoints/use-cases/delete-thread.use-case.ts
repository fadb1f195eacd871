import { Injectable } from '@nestjs/common';
import { CheckpointRepository } from '../checkpoint.repository.js';

@Injectable()
export class DeleteThreadUseCase {
  constructor(private readonly checkpoints: CheckpointRepository) {}

  /** Removes the thread, also when there is none. Safe to repeat. */
  execute(threadId: string): Promise<void> {
    return this.checkpoints.deleteThread(threadId);
  }
}
