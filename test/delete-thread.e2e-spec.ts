import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread } from './support/builders.js';

describe('delete-thread', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const rows = async (thread_id: string) =>
    (
      await app.database.sql<{ n: number }>(
        `select (select count(*) from checkpoints where thread_id = $1)::int
              + (select count(*) from checkpoint_blobs where thread_id = $1)::int
              + (select count(*) from checkpoint_writes where thread_id = $1)::int as n`,
        [thread_id],
      )
    )[0]?.n;

  it('removes every row of the thread in all namespaces, and no other thread’s; again is the same', async () => {
    const [thread_id, other] = [aThread(), aThread()];
    for (const id of [thread_id, other]) {
      for (const checkpoint_ns of ['', 'sub']) {
        const blobs = [{ channel: 'a', version: '1', type: 't', blob: '' }];
        await app.post('put', aPut({ thread_id: id, checkpoint_ns, blobs }));
        await app.post('put-writes', aPutWrites({ thread_id: id, checkpoint_ns }));
      }
    }
    expect(await rows(thread_id)).toBe(6);
    for (let time = 0; time < 2; time += 1) {
      const answer = await app.post('delete-thread', { thread_id });
      expect([answer.status, answer.text]).toEqual([204, '']);
      expect(await rows(thread_id)).toBe(0);
    }
    expect(await rows(other)).toBe(6);
  });
});
