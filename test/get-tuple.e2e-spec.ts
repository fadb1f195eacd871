import { randomBytes } from 'node:crypto';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

describe('get-tuple', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const get = async (body: object) => (await app.post('get-tuple', body)).json;

  it('answers null for a thread, a namespace or a checkpoint that is not there', async () => {
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id }));
    const answer = await app.post('get-tuple', { thread_id: aThread() });
    expect([answer.status, answer.text, answer.type]).toEqual([
      200,
      'null',
      'application/json; charset=utf-8',
    ]);
    expect(await get({ thread_id, checkpoint_ns: 'other' })).toBeNull();
    expect(await get({ thread_id, checkpoint_id: 'other' })).toBeNull();
  });

  it.each([{}, { checkpoint_id: null }, { checkpoint_id: '' }])(
    'finds the checkpoint with the greatest id, byte by byte, with %j',
    async (latest) => {
      const thread_id = aThread();
      for (const checkpoint_id of ['a', 'B', 'Z', 'ä', 'b', '~'])
        await app.post('put', aPut({ thread_id, checkpoint_id }));
      await app.post('put', aPut({ thread_id, checkpoint_ns: 'sub', checkpoint_id: '😀' }));
      expect((await get({ thread_id, ...latest })).checkpoint_id).toBe('ä');
      expect((await get({ thread_id, checkpoint_ns: 'sub', ...latest })).checkpoint_id).toBe('😀');
    },
  );

  it('finds a checkpoint by its id', async () => {
    const thread_id = aThread();
    for (const checkpoint_id of ['1', '2', '3']) await app.post('put', aPut({ thread_id, checkpoint_id }));
    expect((await get({ thread_id, checkpoint_id: '2' })).checkpoint_id).toBe('2');
  });

  it('gives large blobs and writes back to those who stored them, whatever else is stored and read meanwhile', async () => {
    const lengths = [65_535, 65_536, 196_608, 196_609, 300_000, 1_000_000];
    const agent = async (thread_id: string) => {
      for (let round = 0; round < 2; round += 1) {
        const values = lengths.map((length) => base64(randomBytes(length)));
        const channel_versions = Object.fromEntries(values.map((_, at) => [`é${at}`, `${round}`]));
        const blobs = values.map((blob, at) => ({ channel: `é${at}`, version: `${round}`, type: 't', blob }));
        const writes = values.map((blob, idx) => aWrite({ idx, blob, task_path: '"' }));
        const checkpoint_id = `${round}`;
        const checkpoint = { v: 4, channel_versions };
        await Promise.all([
          app.post('put', aPut({ thread_id, checkpoint_id, checkpoint, blobs })),
          app.post('put-writes', aPutWrites({ thread_id, checkpoint_id, writes })),
        ]);
        const include = ['blobs', 'pending_writes'];
        const tuple = await get({ thread_id, include });
        const { json: page } = await app.post('list', { thread_id, limit: 1, include });
        expect(page[0]).toEqual(tuple);
        expect(tuple).toMatchObject({ thread_id, checkpoint_id, checkpoint, pending_writes: writes });
        expect(tuple.blobs).toHaveLength(blobs.length);
        expect(tuple.blobs).toEqual(expect.arrayContaining(blobs));
      }
    };
    await Promise.all(Array.from({ length: 4 }, () => agent(aThread())));
  });

  describe('include', () => {
    const thread_id = aThread();
    const sends = [
      aWrite({ task_id: 'b', idx: 0, channel: '__pregel_tasks', task_path: 'x' }),
      aWrite({ task_id: 'a', idx: 1, channel: '__pregel_tasks', task_path: 'x' }),
      aWrite({ task_id: 'a', idx: 0, channel: '__pregel_tasks', task_path: 'y' }),
    ];
    const write = aWrite({ task_path: 'path' });
    const blob = { channel: 'a', version: '1', type: 't', blob: base64('a') };
    beforeAll(async () => {
      await app.post('put', aPut({ thread_id, checkpoint_id: 'parent' }));
      await app.post(
        'put-writes',
        aPutWrites({ thread_id, checkpoint_id: 'parent', writes: [...sends, aWrite()] }),
      );
      const checkpoint = { v: 3, channel_versions: { a: '1' } };
      await app.post(
        'put',
        aPut({ thread_id, checkpoint_id: 'z', parent_checkpoint_id: 'parent', checkpoint, blobs: [blob] }),
      );
      await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: 'z', writes: [write] }));
    });

    it('absent: blobs, and writes without task_path', async () => {
      const { blobs, pending_writes, pending_sends } = await get({ thread_id });
      expect({ blobs, pending_writes, pending_sends }).toEqual({
        blobs: [blob],
        pending_writes: [aWrite()],
        pending_sends: undefined,
      });
    });

    it('gives just what is asked for, writes with their task_path, the parent’s sends in their order', async () => {
      const tuple = await get({ thread_id, include: ['pending_sends', 'pending_writes'] });
      expect(tuple).not.toHaveProperty('blobs');
      expect(tuple.pending_writes).toEqual([write]);
      expect(tuple.pending_sends).toEqual([sends[1], sends[0], sends[2]]);
      expect(await get({ thread_id, include: [] })).not.toHaveProperty('pending_writes');
    });

    it('does the same on list, for each checkpoint', async () => {
      const { json } = await app.post('list', {
        thread_id,
        include: ['blobs', 'pending_sends', 'pending_writes'],
      });
      expect(json).toMatchObject([
        {
          checkpoint_id: 'z',
          blobs: [blob],
          pending_writes: [write],
          pending_sends: [sends[1], sends[0], sends[2]],
        },
        { checkpoint_id: 'parent', blobs: [], pending_sends: [] },
      ]);
      expect(json[1].pending_writes).toHaveLength(4);
      expect((await app.post('list', { thread_id })).json[0]).not.toHaveProperty('blobs');
    });
  });
});
