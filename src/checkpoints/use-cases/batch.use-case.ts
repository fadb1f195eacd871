import { Injectable } from '@nestjs/common';
import {
  DatabaseUnavailableError,
  QueueFullError,
  QueueTimeoutError,
  StatementTimeoutError,
} from '../../errors/errors.js';
import { asCaller, type Caller, CallerGoneError } from '../../request/caller.js';
import type { CheckpointKey, NewCheckpoint } from '../domain/checkpoint.js';
import { type PutWritesInput, PutWritesUseCase } from './put-writes.use-case.js';
import { PutUseCase } from './put.use-case.js';

/** One of several stores, on behalf of a caller of its own; or why it is refused. */
export type BatchedStore =
  | { caller: Caller; put: NewCheckpoint }
  | { caller: Caller; putWrites: PutWritesInput }
  | { refused: unknown };

type Accepted = Exclude<BatchedStore, { refused: unknown }>;

/** The key of the checkpoint that was put, null when writes were; or what the operation threw. */
export type BatchedOutcome = { stored: CheckpointKey | null } | { error: unknown };

/** So many are read and not finished: what is read may be many times as large as its line. */
const WINDOW = 16;
/** After so long others have their turn. */
const TURN_MS = 5;
/** After so long a batch with a store that is to be sent again begins no more. */
const PATIENCE_MS = 30_000;

@Injectable()
export class BatchUseCase {
  constructor(
    private readonly putUseCase: PutUseCase,
    private readonly putWritesUseCase: PutWritesUseCase,
  ) {}

  /**
   * Reads and carries out each store as if it had come alone, those of a thread one after the other, and gives their outcomes in the
   * same order. One that is refused holds up no other. After one that is to be sent again, nothing more of its thread is done, so that
   * the order stays when it is; and nothing at all when the queue has no room or the database is away. Safe to repeat.
   */
  async execute(reads: (() => Promise<BatchedStore>)[], caller: Caller): Promise<BatchedOutcome[]> {
    const outcomes: BatchedOutcome[] = [];
    const underWay = new Set<Promise<void>>();
    const lastOf = new Map<string, Promise<BatchedOutcome>>();
    const begun = performance.now();
    let turn = begun;
    let trouble: Error | undefined;
    for (const [at, read] of reads.entries()) {
      while (underWay.size >= WINDOW) await Promise.race(underWay);
      if (performance.now() - turn > TURN_MS) {
        await new Promise((resolve) => setImmediate(resolve));
        turn = performance.now();
      }
      if (caller.isGone) trouble = new CallerGoneError();
      if (trouble !== undefined && (!isOfThread(trouble) || performance.now() - begun > PATIENCE_MS)) {
        outcomes[at] = { error: trouble };
        continue;
      }
      const store = await read();
      if ('refused' in store) {
        outcomes[at] = { error: store.refused };
        continue;
      }
      const { threadId } = 'put' in store ? store.put.key : store.putWrites.key;
      const outcome = this.after(lastOf.get(threadId), store);
      lastOf.set(threadId, outcome);
      const done = outcome.then((found) => {
        outcomes[at] = found;
        if (isToBeRepeated(found) && (trouble === undefined || isOfThread(trouble))) trouble = found.error;
        underWay.delete(done);
        if (lastOf.get(threadId) === outcome && !isToBeRepeated(found)) lastOf.delete(threadId);
      });
      underWay.add(done);
    }
    await Promise.all(underWay);
    return outcomes;
  }

  private async after(before: Promise<BatchedOutcome> | undefined, store: Accepted): Promise<BatchedOutcome> {
    const found = await before;
    return found !== undefined && isToBeRepeated(found) ? found : this.carryOut(store);
  }

  private async carryOut(store: Accepted): Promise<BatchedOutcome> {
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

const TO_BE_REPEATED = [QueueFullError, QueueTimeoutError, DatabaseUnavailableError, CallerGoneError];

function isToBeRepeated(outcome: BatchedOutcome): outcome is { error: Error } {
  return 'error' in outcome && TO_BE_REPEATED.some((type) => outcome.error instanceof type);
}

/** Whether other threads have it not: it waited for a lock. */
function isOfThread(trouble: Error): boolean {
  return trouble instanceof StatementTimeoutError;
}
