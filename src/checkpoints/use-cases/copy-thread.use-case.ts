import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../thread.repository.js';

export interface CopyThreadInput {
  sourceThreadId: string;
  targetThreadId: string;
}

@Injectable()
export class CopyThreadUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Copies every row of a thread, in all namespaces, ids kept. Safe to repeat. @throws KeyTooLongError */
  async execute({ sourceThreadId, targetThreadId }: CopyThreadInput): Promise<void> {
    if (sourceThreadId !== targetThreadId) await this.threads.copyThread(sourceThreadId, targetThreadId);
  }
}
