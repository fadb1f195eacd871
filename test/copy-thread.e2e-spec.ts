import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

describe('copy-thread', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  /** Every row of a thread as text, without the thread's id. */
  const rows = (thread_id: string) =>
    app.database.sql(
      `select t.name, t.text
         from (select 'c' as name, (to_jsonb(c) - 'thread_id')::text as text from checkpoints c where thread_id = $1
               union all
               select 'b', (to_jsonb(b) - 'thread_id')::text from checkpoint_blobs b where thread_id = $1
               union all
               select 'w', (to_jsonb(w) - 'thread_id')::text from checkpoint_writes w where thread_id = $1) as t
        order by 1, 2`,
      [thread_id],
    );

  const fill = async (thread_id: string) => {
    for (const checkpoint_ns of ['', 'sub:1']) {
      for (const checkpoint_id of ['1', '2']) {
        const blobs = [{ channel: 'a', version: checkpoint_id, type: 't', blob: base64(checkpoint_id) }];
        const checkpoint = { text: '\0', channel_versions: { a: checkpoint_id } };
        await app.post('put', aPut({ thread_id, checkpoint_ns, checkpoint_id, checkpoint, blobs }));
        const writes = [aWrite({ task_path: 'path' })];
        await app.post('put-writes', aPutWrites({ thread_id, checkpoint_ns, checkpoint_id, writes }));
      }
    }
  };

  it('copies every row of every namespace, ids kept, and leaves the source as it was; again changes nothing', async () => {
    const [source_thread_id, target_thread_id] = [aThread(), aThread()];
    await fill(source_thread_id);
    const before = await rows(source_thread_id);
    expect(before).toHaveLength(12);
    for (let time = 0; time < 2; time += 1) {
      const answer = await app.post('copy-thread', { source_thread_id, target_thread_id });
      expect([answer.status, answer.text]).toEqual([204, '']);
      expect(await rows(target_thread_id)).toEqual(before);
      expect(await rows(source_thread_id)).toEqual(before);
    }
    const read = async (thread_id: string) => (await app.post('get-tuple', { thread_id })).json;
    expect(await read(target_thread_id)).toEqual({
      ...(await read(source_thread_id)),
      thread_id: target_thread_id,
    });
  });

  it('keeps what the target has already', async () => {
    const [source_thread_id, target_thread_id] = [aThread(), aThread()];
    await fill(source_thread_id);
    await app.post('put', aPut({ thread_id: target_thread_id, checkpoint_id: '2', metadata: { own: true } }));
    await app.post('copy-thread', { source_thread_id, target_thread_id });
    const { metadata } = (await app.post('get-tuple', { thread_id: target_thread_id })).json;
    expect(metadata).toEqual({ own: true });
    expect(await rows(target_thread_id)).toHaveLength(12);
  });

  it('does nothing for a thread that is not there, or onto itself', async () => {
    const thread_id = aThread();
    await fill(thread_id);
    const before = await rows(thread_id);
    for (const source_thread_id of [aThread(), thread_id]) {
      expect((await app.post('copy-thread', { source_thread_id, target_thread_id: thread_id })).status).toBe(
        204,
      );
    }
    expect(await rows(thread_id)).toEqual(before);
  });

  it('refuses a target whose keys would not fit, and copies nothing', async () => {
    const random = (length: number) =>
      Array.from({ length }, () => String.fromCharCode(33 + Math.floor(Math.random() * 90))).join('');
    const [source_thread_id, target_thread_id] = [aThread(), random(2590)];
    const writes = [aWrite(), aWrite({ task_id: random(200) })];
    await app.post('put-writes', aPutWrites({ thread_id: source_thread_id, writes }));
    const answer = await app.post('copy-thread', { source_thread_id, target_thread_id });
    expect(answer).toMatchObject({
      status: 422,
      json: { type: '/problems/invalid-request', errors: [{ pointer: '#/target_thread_id' }] },
    });
    expect(await rows(target_thread_id)).toEqual([]);
  });

  it.each([
    [{}, ['#/source_thread_id', '#/target_thread_id']],
    [{ source_thread_id: 'a', target_thread_id: '' }, ['#/target_thread_id']],
  ])('refuses %j', async (body, pointers) => {
    const { status, json } = await app.post('copy-thread', body);
    expect([status, json.errors.map((fault: { pointer: string }) => fault.pointer)]).toEqual([422, pointers]);
  });
});
