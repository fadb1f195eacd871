import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

describe('put-writes', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const stored = (thread_id: string) =>
    app.database.sql<{ task_id: string; idx: number; channel: string; blob: Buffer; task_path: string }>(
      `select task_id, idx, channel, type, blob, task_path
         from checkpoint_writes where thread_id = $1 order by task_id collate "C", idx`,
      [thread_id],
    );

  it('answers 204 without a body, and the writes come with their checkpoint, which may be stored later', async () => {
    const thread_id = aThread();
    const writes = [
      aWrite({ task_id: 'b', idx: 0, channel: 'first by name' }),
      aWrite({ task_id: 'a', idx: 1, type: null, blob: '' }),
      aWrite({ task_id: 'a', idx: -4 }),
      aWrite({ task_id: 'B', idx: 0 }),
    ];
    const answer = await app.post('put-writes', aPutWrites({ thread_id, writes }));
    expect([answer.status, answer.text]).toEqual([204, '']);
    expect((await app.post('get-tuple', { thread_id })).json).toBeNull();
    await app.post('put', aPut({ thread_id }));
    const found = (await app.post('get-tuple', { thread_id })).json.pending_writes;
    expect(found).toEqual([writes[3], writes[2], writes[1], writes[0]]);
  });

  it('keeps an existing write', async () => {
    const thread_id = aThread();
    await app.post('put-writes', aPutWrites({ thread_id, writes: [aWrite({ blob: base64('1') })] }));
    await app.post(
      'put-writes',
      aPutWrites({ thread_id, writes: [aWrite({ blob: base64('2') }), aWrite({ idx: 1 })] }),
    );
    expect((await stored(thread_id)).map((row) => row.blob.toString())).toEqual(['1', 'write']);
  });

  it('replaces channel, type and blob with upsert', async () => {
    const thread_id = aThread();
    await app.post('put-writes', aPutWrites({ thread_id, writes: [aWrite({ task_path: 'before' })] }));
    const write = aWrite({ channel: 'other', type: null, blob: base64('2'), task_path: 'after' });
    await app.post('put-writes', aPutWrites({ thread_id, writes: [write], upsert: true }));
    expect(await stored(thread_id)).toEqual([
      {
        task_id: 'task-1',
        idx: 0,
        channel: 'other',
        type: null,
        blob: Buffer.from('2'),
        task_path: 'before',
      },
    ]);
  });

  it.each([
    { upsert: false, kept: '1' },
    { upsert: true, kept: '2' },
  ])('takes the same (task_id, idx) twice: with upsert $upsert, $kept is kept', async ({ upsert, kept }) => {
    const thread_id = aThread();
    const writes = [aWrite({ blob: base64('1') }), aWrite({ blob: base64('2') })];
    expect((await app.post('put-writes', aPutWrites({ thread_id, writes, upsert }))).status).toBe(204);
    expect((await stored(thread_id)).map((row) => row.blob.toString())).toEqual([kept]);
  });

  it('does nothing for no writes', async () => {
    const thread_id = aThread();
    expect((await app.post('put-writes', aPutWrites({ thread_id, writes: [] }))).status).toBe(204);
    expect(await stored(thread_id)).toEqual([]);
  });

  it('keeps the extremes of idx', async () => {
    const thread_id = aThread();
    const writes = [aWrite({ idx: -2147483648 }), aWrite({ idx: 2147483647 })];
    await app.post('put-writes', aPutWrites({ thread_id, writes }));
    expect((await stored(thread_id)).map((row) => row.idx)).toEqual([-2147483648, 2147483647]);
  });

  it('is not deadlocked by the same rows in another order', async () => {
    // Without retries a deadlock shows.
    const impatient = await startApp({ OUTAGE_WAIT_MS: '0' }, app.database);
    const thread_id = aThread();
    const writes = Array.from({ length: 100 }, (_, n) => aWrite({ task_id: `task-${n % 10}`, idx: n }));
    const answers = await Promise.all(
      Array.from({ length: 30 }, (_, n) =>
        impatient.post(
          'put-writes',
          aPutWrites({ thread_id, writes: n % 2 ? writes : writes.toReversed(), upsert: true }),
        ),
      ),
    );
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([204]));
    expect(await stored(thread_id)).toHaveLength(100);
    await impatient.close();
  });
});
