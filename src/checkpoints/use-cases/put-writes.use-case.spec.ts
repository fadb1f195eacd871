import { jest } from '@jest/globals';
import { Settings } from '../../config/env.js';
import { LimitExceededError } from '../../errors/errors.js';
import type { CheckpointRepository } from '../sql/checkpoint.repository.js';
import type { PendingWrite } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { PutWritesUseCase } from './put-writes.use-case.js';

const key = { threadId: 'thread-1' as StoredThreadId, checkpointNs: '', checkpointId: 'checkpoint-1' };
const aWrite = (fields: Partial<PendingWrite> = {}): PendingWrite => ({
  taskId: 'task-1',
  idx: 0,
  channel: 'messages',
  type: 'msgpack',
  blob: Buffer.from('write'),
  taskPath: '',
  ...fields,
});

function aUseCase(environment: Record<string, string> = {}) {
  const insertWrites = jest.fn<CheckpointRepository['insertWrites']>();
  const upsertWrites = jest.fn<CheckpointRepository['upsertWrites']>();
  const repository = { insertWrites, upsertWrites } as unknown as CheckpointRepository;
  return { useCase: new PutWritesUseCase(repository, new Settings(environment)), insertWrites, upsertWrites };
}

const first = aWrite({ idx: -4, blob: Buffer.from('1'), taskPath: 'first' });
const last = aWrite({ idx: -4, blob: Buffer.from('2'), taskPath: 'last' });
const other = aWrite({ idx: -4, taskId: 'task-2' });

describe('PutWritesUseCase', () => {
  it.each([
    { name: 'inserting keeps the first of a slot', upsert: false, writes: [first, last], kept: [first] },
    {
      name: 'replacing keeps the last of a slot, at the path of the first, as row by row',
      upsert: true,
      writes: [first, last],
      kept: [{ ...last, taskPath: 'first' }],
    },
    { name: 'tasks do not share slots', upsert: false, writes: [first, other], kept: [first, other] },
  ])('$name', async ({ upsert, writes, kept }) => {
    const { useCase, insertWrites, upsertWrites } = aUseCase();
    await useCase.execute({ key, writes, upsert });
    expect(upsert ? upsertWrites : insertWrites).toHaveBeenCalledWith(key, kept);
    expect(upsert ? insertWrites : upsertWrites).not.toHaveBeenCalled();
  });

  it('asks nothing of the database for no writes', async () => {
    const { useCase, insertWrites } = aUseCase();
    await useCase.execute({ key, writes: [], upsert: false });
    expect(insertWrites).not.toHaveBeenCalled();
  });

  it('refuses a blob over the limit, and names it', async () => {
    const { useCase } = aUseCase({ BLOB_LIMIT_BYTES: '4' });
    await useCase.execute({ key, writes: [aWrite({ blob: Buffer.alloc(4) })], upsert: false });
    await expect(useCase.execute({ key, writes: [aWrite()], upsert: false })).rejects.toThrow(
      new LimitExceededError('The write to channel "messages"', 'BLOB_LIMIT_BYTES', 4),
    );
  });
});
