import { type TestApp, startApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';

describe('list', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ LIST_DEFAULT_LIMIT: '7' });
  });
  afterAll(() => app.close());

  const ids = async (body: object) =>
    ((await app.post('list', body)).json as { checkpoint_id: string }[]).map((item) => item.checkpoint_id);

  /** Every page, by following the cursor. */
  async function pages(body: object): Promise<string[][]> {
    const found: string[][] = [];
    for (let cursor: string | undefined; found.length === 0 || cursor !== undefined;) {
      const answer = await app.post('list', { ...body, ...(cursor !== undefined && { cursor }) });
      expect(answer.status).toBe(200);
      found.push(
        answer.json.map((item: Record<string, string>) => `${item.checkpoint_id} ${item.checkpoint_ns}`),
      );
      cursor = answer.headers['x-next-cursor'];
    }
    return found;
  }

  it('answers an empty array for a thread that is not there', async () => {
    const answer = await app.post('list', { thread_id: aThread() });
    expect([answer.status, answer.text, answer.headers['x-next-cursor']]).toEqual([200, '[]', undefined]);
  });

  it('lists newest first, byte by byte, without blobs and writes', async () => {
    const thread_id = aThread();
    for (const checkpoint_id of ['a', 'B', 'ä', 'b'])
      await app.post('put', aPut({ thread_id, checkpoint_id }));
    expect(await ids({ thread_id })).toEqual(['ä', 'b', 'a', 'B']);
    const { checkpoint, metadata } = aPut();
    expect((await app.post('list', { thread_id, limit: 1 })).json).toEqual([
      { thread_id, checkpoint_ns: '', checkpoint_id: 'ä', parent_checkpoint_id: null, checkpoint, metadata },
    ]);
  });

  it('narrows to a namespace, a checkpoint, and what came before one', async () => {
    const thread_id = aThread();
    for (const checkpoint_ns of ['', 'sub']) {
      for (const checkpoint_id of ['1', '2', '3'])
        await app.post('put', aPut({ thread_id, checkpoint_ns, checkpoint_id }));
    }
    expect(await ids({ thread_id })).toEqual(['3', '3', '2', '2', '1', '1']);
    expect(await ids({ thread_id, checkpoint_ns: null })).toHaveLength(6);
    expect(await ids({ thread_id, checkpoint_ns: '' })).toEqual(['3', '2', '1']);
    expect(await ids({ thread_id, checkpoint_ns: 'sub', before_checkpoint_id: '3' })).toEqual(['2', '1']);
    expect(await ids({ thread_id, checkpoint_id: '2' })).toEqual(['2', '2']);
    expect(await ids({ thread_id, checkpoint_ns: '', checkpoint_id: '2' })).toEqual(['2']);
  });

  it('pages with a cursor exactly to the end, across namespaces', async () => {
    const thread_id = aThread();
    for (const checkpoint_ns of ['', 'a', 'b']) {
      for (const checkpoint_id of ['1', '2', '3', '4'])
        await app.post('put', aPut({ thread_id, checkpoint_ns, checkpoint_id }));
    }
    const all = ['4', '3', '2', '1'].flatMap((id) => ['b', 'a', ''].map((ns) => `${id} ${ns}`));
    for (const limit of [1, 2, 5, 11, 12, 13]) {
      const found = await pages({ thread_id, limit });
      expect(found.flat()).toEqual(all);
      expect(found.length).toBe(Math.ceil(12 / limit));
    }
    expect((await pages({ thread_id })).map((page) => page.length)).toEqual([7, 5]);
  });

  it('goes on with the same filter when rows come in between', async () => {
    const thread_id = aThread();
    for (const id of ['1', '2', '3'])
      await app.post('put', aPut({ thread_id, checkpoint_id: id, metadata: { keep: true } }));
    const first = await app.post('list', { thread_id, limit: 1, filter_metadata: { keep: true } });
    await app.post('put', aPut({ thread_id, checkpoint_id: '9', metadata: { keep: true } }));
    await app.post('put', aPut({ thread_id, checkpoint_id: '15', metadata: {} }));
    const cursor = first.headers['x-next-cursor'];
    expect(await ids({ thread_id, cursor, filter_metadata: { keep: true } })).toEqual(['2', '1']);
  });

  it.each([
    [{ source: 'loop' }, ['3', '1']],
    [{ source: 'loop', step: 1 }, ['1']],
    [{ nested: { a: 1 } }, ['3']],
    [{ list: ['x'] }, ['3']],
    [{}, ['3', '2', '1']],
    [{ source: null }, []],
  ])('filters by what metadata contains: %j', async (filter_metadata, expected) => {
    const thread_id = aThread();
    const metadata = [
      { source: 'loop', step: 1 },
      { source: 'input', step: 2 },
      { source: 'loop', step: 3, nested: { a: 1, b: 2 }, list: ['y', 'x'] },
    ];
    for (const [n, m] of metadata.entries())
      await app.post('put', aPut({ thread_id, checkpoint_id: `${n + 1}`, metadata: m }));
    expect(await ids({ thread_id, filter_metadata })).toEqual(expected);
  });

  it('filters exactly: big numbers, and characters that jsonb refuses', async () => {
    const thread_id = aThread();
    const put = (id: string, metadata: string) =>
      app.post(
        'put',
        `{"thread_id":"${thread_id}","checkpoint_id":"${id}","checkpoint":{},"metadata":${metadata}}`,
      );
    await put('1', '{"n":9007199254740993}');
    await put('2', '{"n":9007199254740992}');
    await put('3', '{"s":"\\u0000"}');
    await put('4', '{"s":"\ue0000:0000"}');
    await put('5', '{"s":"\\u0000","t":"\ue0000:0000"}');
    const filtered = async (filter: string) =>
      (await app.post('list', `{"thread_id":"${thread_id}","filter_metadata":${filter}}`)).json.map(
        (item: { checkpoint_id: string }) => item.checkpoint_id,
      );
    expect(await filtered('{"n":9007199254740993}')).toEqual(['1']);
    expect(await filtered('{"s":"\\u0000"}')).toEqual(['5', '3']);
    expect(await filtered('{"t":"\ue0000:0000"}')).toEqual(['5']);
  });
});

describe('list without thread_id', () => {
  it('pages through every thread', async () => {
    const app = await startApp();
    const expected: string[] = [];
    for (const checkpoint_id of ['1', '2']) {
      for (const thread_id of ['a', 'B', 'c']) {
        await app.post('put', aPut({ thread_id, checkpoint_id }));
        expected.push(`${checkpoint_id} ${thread_id}`);
      }
    }
    const found: string[] = [];
    for (let cursor: string | null | undefined = null; cursor !== undefined;) {
      const answer = await app.post('list', { limit: 4, cursor });
      found.push(
        ...answer.json.map((item: Record<string, string>) => `${item.checkpoint_id} ${item.thread_id}`),
      );
      cursor = answer.headers['x-next-cursor'];
    }
    expect(found).toEqual(['2 c', '2 a', '2 B', '1 c', '1 a', '1 B']);
    expect(found.toSorted()).toEqual(expected.toSorted());
    await app.close();
  });
});
