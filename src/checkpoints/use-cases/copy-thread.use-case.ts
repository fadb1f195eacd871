import { Injectable } from '@nestjs/common';
import { ThreadRepository } from '../sql/thread.repository.js';
import type { StoredThreadId } from '../domain/tenant.js';

export interface CopyThreadInput {
  sourceThreadId: StoredThreadId;
  targetThreadId: StoredThreadId;
}

@Injectable()
export class CopyThreadUseCase {
  constructor(private readonly threads: ThreadRepository) {}

  /** Copies every row of a thread, in all namespaces, ids kept. Safe to repeat. @throws KeyTooLongError */
  async execute({ sourceThreadId, targetThreadId }: CopyThreadInput): Promise<void> {
    if (sourceThreadId !== targetThreadId) await this.threads.copyThread(sourceThreadId, targetThreadId);
  }
}
