import { Injectable } from '@nestjs/common';
import { asCaller, type Caller } from '../../request/caller.js';
import type { CheckpointKey, NewCheckpoint } from '../domain/checkpoint.js';
import { CheckpointRepository } from '../sql/checkpoint.repository.js';
import { type PutWritesInput, PutWritesUseCase } from './put-writes.use-case.js';
import { PutUseCase } from './put.use-case.js';

/** One of several stores, on behalf of a caller of its own; or why it is refused. */
export type BatchedStore =
  | { caller: Caller; put: NewCheckpoint }
  | { caller: Caller; putWrites: PutWritesInput }
  | { refused: unknown };

/** The key of the checkpoint that was put, null when writes were; or what the operation threw. */
export type BatchedOutcome = { stored: CheckpointKey | null } | { error: unknown };

@Injectable()
export class BatchUseCase {
  constructor(
    private readonly checkpoints: CheckpointRepository,
    private readonly putUseCase: PutUseCase,
    private readonly putWritesUseCase: PutWritesUseCase,
  ) {}

  /**
   * Carries out each store as if it had come alone, those of a thread in their order, and gives their outcomes in the same
   * order. One that fails holds up no other. Safe to repeat.
   */
  execute(stores: BatchedStore[]): Promise<BatchedOutcome[]> {
    const last = new Map<string, Promise<BatchedOutcome>>();
    return Promise.all(
      stores.map((store): Promise<BatchedOutcome> => {
        if ('refused' in store) return Promise.resolve({ error: store.refused });
        const { threadId } = 'put' in store ? store.put.key : store.putWrites.key;
        const before = this.checkpoints.keepsOrder ? undefined : last.get(threadId);
        const outcome = before === undefined ? this.carryOut(store) : before.then(() => this.carryOut(store));
        last.set(threadId, outcome);
        return outcome;
      }),
    );
  }

  private async carryOut(store: Exclude<BatchedStore, { refused: unknown }>): Promise<BatchedOutcome> {
    try {
      const stored = await asCaller(store.caller, async () => {
        if ('put' in store) return this.putUseCase.execute(store.put);
        await this.putWritesUseCase.execute(store.putWrites);
        return null;
      });
      return { stored };
    } catch (error) {
      return { error };
    }
  }
}
