import { expect, it } from '@jest/globals';
import { DatabaseUnavailableError, StatementTimeoutError } from '../../errors/errors.js';
import { Caller } from '../../request/caller.js';
import type { NewCheckpoint } from '../domain/checkpoint.js';
import { BatchUseCase } from './batch.use-case.js';
import type { PutWritesUseCase } from './put-writes.use-case.js';
import type { PutUseCase } from './put.use-case.js';

const turn = () => new Promise((resolve) => setImmediate(resolve));

it('begins no more once the database is away, whatever a lock does to an earlier operation afterwards', async () => {
  const begun: string[] = [];
  let lockWaited!: (error: Error) => void;
  const put = async ({ key }: NewCheckpoint) => {
    begun.push(key.threadId);
    if (key.threadId === 'locked') await new Promise((_, reject) => (lockWaited = reject));
    if (key.threadId === 'away') throw new DatabaseUnavailableError('It is away');
    return key;
  };
  const batch = new BatchUseCase({ execute: put } as unknown as PutUseCase, {} as PutWritesUseCase);
  const caller = new Caller();
  const store = (threadId: string) => ({ caller, put: { key: { threadId } } as NewCheckpoint });
  const reads = ['locked', 'away', 'third', 'fourth'].map((threadId) => async () => {
    if (threadId === 'third') {
      await turn();
      lockWaited(new StatementTimeoutError('It waited for a lock'));
      await turn();
    }
    return store(threadId);
  });
  const outcomes = await batch.execute(reads, caller);
  expect(begun).not.toContain('fourth');
  expect(outcomes[3]).toEqual({ error: expect.any(DatabaseUnavailableError) });
});
