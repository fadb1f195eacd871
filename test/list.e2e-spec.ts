import { jest } from '@jest/globals';
import { loadService, startApp, type TestApp } from './support/app.js';
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

describe('filter_metadata', () => {
  let app: TestApp;
  const thread_id = aThread();
  const tags = Array.from({ length: 3000 }, (_, n) => [n]);
  beforeAll(async () => {
    app = await startApp();
    const metadata = { tags, deep: [[[[1]]]], run: { a: [{ x: 1, y: 2 }] }, source: 'loop' };
    await app.post('put', aPut({ thread_id, metadata }));
  });
  afterAll(() => app.close());

  const filtered = (filter: object | string) =>
    app.post(
      'list',
      `{"thread_id":"${thread_id}","filter_metadata":${typeof filter === 'string' ? filter : JSON.stringify(filter)}}`,
    );
  const numbers = (length: number) => Array.from({ length }, (_, n) => n);
  const object = (length: number) => Object.fromEntries(numbers(length).map((n) => [`key ${n}`, n]));

  it.each<[string, object]>([
    ['an element', { tags: [[2999]] }],
    ['a few elements', { tags: [[2999], [0], [1]] }],
    ['objects in arrays', { run: { a: [{ x: 1 }, { y: 2 }] } }],
    ['arrays in arrays', { deep: [[[[1]]]] }],
    ['nothing', {}],
  ])('finds what holds %s', async (_, filter) => {
    expect(await filtered(filter)).toMatchObject({ status: 200, json: [{ thread_id }] });
  });

  it.each<[string, object]>([
    ['16 scalars in arrays', { tags: numbers(16) }],
    ['4 arrays in arrays', { tags: [[-1], [-2], [-3], [-4]] }],
    ['999 members', object(999)],
    ['65,000 bytes', { source: 'x'.repeat(65_000) }],
    ['characters that jsonb refuses', { source: '\0\ud800' }],
  ])('may hold %s', async (_, filter) => {
    expect(await filtered(filter)).toMatchObject({ status: 200, json: [] });
  });

  const inside = 'must not hold more than 16 values inside arrays, all its arrays together';
  const nested = 'must not hold more than 4 arrays and objects inside arrays';
  it.each<[string, object | string, string]>([
    ['an array of 17', { tags: numbers(17) }, inside],
    ['arrays with 17 together', { a: numbers(9), b: { c: numbers(8) } }, inside],
    ['members of objects in arrays', { a: [object(16)] }, inside],
    [
      '9000 arrays in an array',
      { tags: numbers(9000).map(() => [1]) },
      'must not hold more than 1000 values',
    ],
    ['5 arrays in an array', { tags: [[], [], [], [], []] }, nested],
    ['5 objects in arrays of objects', { a: { b: [{}, {}, {}] }, c: [{}, {}] }, nested],
    ['arrays in arrays, 6 deep', { deep: [[[[[[1]]]]]] }, nested],
    ['arrays in arrays, very deep', `{"a":${'['.repeat(900)}${']'.repeat(900)}}`, inside],
    ['1000 members', object(1000), 'must not hold more than 1000 values'],
    ['65,537 bytes', { a: 'é'.repeat(32_765) }, 'must not be longer than 65536 bytes'],
  ])('may not hold %s', async (_, filter, detail) => {
    const pointer = '#/filter_metadata';
    expect(await filtered(filter)).toMatchObject({ status: 422, json: { errors: [{ pointer, detail }] } });
  });

  it('over checkpoints of which none matches ends with STATEMENT_TIMEOUT_MS', async () => {
    const impatient = await startApp({ STATEMENT_TIMEOUT_MS: '1000', OUTAGE_WAIT_MS: '0' });
    await impatient.database.sql(
      `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
       select 'many', '', n::text, '{}', metadata
         from (select jsonb_build_object('a', jsonb_agg(jsonb_build_array(m))) as metadata from generate_series(1, 5000) as m) as m,
              generate_series(1, 2500) as n`,
    );
    const filter_metadata = { a: [[4998], [4999], [5000], [0]] };
    expect(await impatient.post('list', { thread_id: 'many', filter_metadata })).toMatchObject({
      status: 503,
    });
    expect(await impatient.post('list', { thread_id: 'many', limit: 1 })).toMatchObject({ status: 200 });
    await impatient.close();
  });
});

describe('a cursor', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const ROOM = 3600;
  it.each(['a', '\\', '\u0007', '"', 'ж', '\u{1f600}'])(
    'of a key as long as may be, of %j, fits a header, and goes on there',
    async (character) => {
      const long = (bytes: number) => character.repeat(Math.floor(bytes / Buffer.byteLength(character)));
      const [thread_id, checkpoint_ns, id] = [long(1000), long(800), long(700)];
      const before = app.received();
      for (const n of ['1', '2', '3'])
        await app.post('put', aPut({ thread_id, checkpoint_ns, checkpoint_id: id + n }));
      expect(app.received()).toBe(before + 3);
      for (const request of [{}, { thread_id }, { checkpoint_ns }, { thread_id, checkpoint_ns }]) {
        const first = await app.post('list', { ...request, before_checkpoint_id: `${id}4`, limit: 1 });
        const cursor = first.headers['x-next-cursor'];
        expect(cursor?.length).toBeLessThan(ROOM);
        const rest = await app.post('list', { ...request, before_checkpoint_id: `${id}4`, limit: 1, cursor });
        expect(rest.json[0]).toMatchObject({ thread_id, checkpoint_ns, checkpoint_id: `${id}2` });
      }
      await app.post('delete-thread', { thread_id });
    },
  );

  it('leaves out what the request names, and is not taken without it', async () => {
    const thread_id = aThread();
    for (const checkpoint_id of ['1', '2']) await app.post('put', aPut({ thread_id, checkpoint_id }));
    const { headers } = await app.post('list', { thread_id, limit: 1 });
    const cursor = headers['x-next-cursor'];
    expect(cursor?.length).toBeLessThan(thread_id.length / 2);
    for (const request of [{}, { checkpoint_ns: '' }]) {
      expect(await app.post('list', { ...request, cursor })).toMatchObject({
        status: 422,
        json: { errors: [{ pointer: '#/cursor', detail: 'must be the x-next-cursor of a list' }] },
      });
    }
  });

  it('of the release before goes on', async () => {
    const thread_id = aThread();
    for (const checkpoint_id of ['1', '2', '3']) await app.post('put', aPut({ thread_id, checkpoint_id }));
    const cursor = Buffer.from(JSON.stringify([thread_id, '', '3'])).toString('base64url');
    const { json } = await app.post('list', { thread_id, cursor, limit: 1 });
    expect(json).toMatchObject([{ checkpoint_id: '2' }]);
  });

  it.each([
    ['cut off', [0xfb, 0, 0, 0, 9, 0x61]],
    ['without a length', [0xfb, 0]],
    ['with NUL', [0xfb, 0, 0, 0, 1, 0x61, 0, 0, 0, 0, 0]],
    ['with a namespace that is cut off', [0xfb, 0, 0, 0, 1, 0x61, 0, 0, 0, 2, 0x61]],
    ['of another kind', [0xff]],
    ['empty', [0xfb]],
    ['with a tenant', [0xfb, 0, 0, 0, 2, 1, 0x61, 0, 0, 0, 0, 0x31]],
  ])('%s is refused', async (_, bytes) => {
    const cursor = Buffer.from(bytes).toString('base64url');
    expect((await app.post('list', { cursor })).status).toBe(422);
  });
});

describe('the forms of list', () => {
  it('are four for all limits, and the one of get-tuple stays, whatever else is asked for', async () => {
    const app = await startApp();
    const send = jest.spyOn((await loadService()).Database.prototype, 'send');
    const thread_id = aThread();
    await app.post('get-tuple', { thread_id });
    for (let limit = 1; limit <= 1000; limit += limit < 120 ? 1 : 97) {
      expect((await app.post('list', { thread_id, limit })).status).toBe(200);
    }
    const all = ['blobs', 'pending_writes', 'pending_sends'];
    const orders = [all, all.toReversed(), [all[1], all[0], all[2]], [...all, ...all]];
    for (const include of orders) await app.post('list', { thread_id, include });
    await app.post('get-tuple', { thread_id });
    const texts = send.mock.calls.map(([sql]) => sql);
    send.mockRestore();
    expect(new Set(texts).size).toBeLessThanOrEqual(6);
    expect(texts.at(-1)).toBe(texts[0]);
    await app.close();
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
