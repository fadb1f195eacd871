import { type TestApp, startApp } from './support/app.js';
import { type Exact, canonical, parseExact } from './support/exact.js';
import { aPut, aThread, base64 } from './support/builders.js';

describe('put', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const read = async (thread_id: string, checkpoint_id: string | null = null) =>
    (await app.post('get-tuple', { thread_id, checkpoint_id })).json;
  const blob = (fields: object) => ({
    channel: 'messages',
    version: '1',
    type: 'msgpack',
    blob: base64('x'),
    ...fields,
  });
  const reading = (versions: object) => ({ v: 4, id: 'checkpoint-1', channel_versions: versions });

  it('stores the checkpoint and answers its key', async () => {
    const thread_id = aThread();
    const put = aPut({
      thread_id,
      checkpoint_ns: 'sub:1',
      parent_checkpoint_id: 'parent',
      metadata: { step: 1 },
    });
    const answer = await app.post('put', put);
    expect(answer.status).toBe(200);
    expect(answer.type).toBe('application/json; charset=utf-8');
    expect(answer.json).toEqual({ thread_id, checkpoint_ns: 'sub:1', checkpoint_id: 'checkpoint-1' });
    const found = await app.post('get-tuple', { thread_id, checkpoint_ns: 'sub:1' });
    expect(found.json).toEqual({ ...put, pending_writes: [] });
  });

  it('comes back with the same keys and values, the numbers as jsonb prints them', async () => {
    const thread_id = aThread();
    const document =
      '{"a":1.0,"b":12345678901234567890,"c":1e-7,"d":-0.0,"__proto__":{"x":1},"constructor":{"y":2},"e":"\\u0000","f":"\\ud800"}';
    await app.post(
      'put',
      `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":${document},"metadata":${document}}`,
    );
    const tuple = parseExact((await app.post('get-tuple', { thread_id })).text) as Map<string, Exact>;
    const printed: Record<string, string> = { '1e-7': '0.0000001', '-0.0': '0.0' };
    for (const part of ['checkpoint', 'metadata']) {
      expect(canonical(tuple.get(part) ?? null)).toBe(
        canonical(parseExact(document), (literal) => printed[literal] ?? literal),
      );
    }
  });

  it('stores a document without such characters exactly as LangGraph’s savers would', async () => {
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id, metadata: { text: 'é\ue0000:😀' } }));
    const rows = await app.database.sql(
      "select type, metadata->>'text' as text from checkpoints where thread_id = $1",
      [thread_id],
    );
    expect(rows).toEqual([{ type: null, text: 'é\ue0000:😀' }]);
  });

  it('replaces checkpoint and metadata of an existing checkpoint, and keeps its parent', async () => {
    const thread_id = aThread();
    await app.post(
      'put',
      aPut({ thread_id, parent_checkpoint_id: 'p1', checkpoint: { n: '\0' }, metadata: { n: 1 } }),
    );
    await app.post(
      'put',
      aPut({ thread_id, parent_checkpoint_id: 'p2', checkpoint: { n: 2 }, metadata: { m: 2 } }),
    );
    expect(await read(thread_id)).toMatchObject({
      parent_checkpoint_id: 'p1',
      checkpoint: { n: 2 },
      metadata: { m: 2 },
    });
  });

  it('keeps an existing blob, and of two in one request the first', async () => {
    const thread_id = aThread();
    const checkpoint = reading({ messages: '1', other: '1' });
    await app.post('put', aPut({ thread_id, checkpoint, blobs: [blob({ blob: base64('first') })] }));
    const blobs = [
      blob({ blob: base64('second') }),
      blob({ channel: 'other', blob: base64('a') }),
      blob({ channel: 'other', blob: base64('b') }),
    ];
    expect((await app.post('put', aPut({ thread_id, checkpoint, blobs }))).status).toBe(200);
    expect((await read(thread_id)).blobs.map((b: { blob: string }) => b.blob).sort()).toEqual(
      [base64('a'), base64('first')].sort(),
    );
  });

  it.each([
    ['no bytes', Buffer.alloc(0)],
    ['a zero byte', Buffer.from([0])],
    ['every byte', Buffer.from(Array.from({ length: 256 }, (_, n) => n))],
    ['more than a line of Base64', Buffer.alloc(1000, 0xff)],
  ])('brings back a blob of %s, and null', async (_name, bytes) => {
    const thread_id = aThread();
    const blobs = [
      blob({ blob: bytes.toString('base64') }),
      blob({ channel: 'none', type: 'empty', blob: null }),
    ];
    await app.post('put', aPut({ thread_id, checkpoint: reading({ messages: '1', none: '1' }), blobs }));
    const found = (await read(thread_id)).blobs;
    expect(found).toHaveLength(2);
    expect(found).toEqual(expect.arrayContaining(blobs));
  });

  it.each(['1', '1.0', '12345678901234567890', '1e3', '-0.0', '1e-7', '0.10'])(
    'finds the blob of version %s, sent as a number in both places',
    async (version) => {
      const thread_id = aThread();
      await app.post(
        'put',
        `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":{"channel_versions":{"a":${version}}},
          "blobs":[{"channel":"a","version":${version},"type":"t","blob":"QQ=="}]}`,
      );
      const [{ printed }] = (await app.database.sql(`select ('[${version}]'::jsonb)->>0 as printed`)) as [
        { printed: string },
      ];
      expect((await read(thread_id)).blobs).toEqual([
        { channel: 'a', version: printed, type: 't', blob: 'QQ==' },
      ]);
    },
  );

  it('tells 1.0 from 1', async () => {
    const thread_id = aThread();
    await app.post(
      'put',
      `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":{"channel_versions":{"a":1.0}},
        "blobs":[{"channel":"a","version":1,"type":"t","blob":"QQ=="}]}`,
    );
    expect((await read(thread_id)).blobs).toEqual([]);
  });

  it('takes ids as numbers, as the text that they were written in', async () => {
    const answer = await app.post(
      'put',
      '{"thread_id":12345678901234567890,"checkpoint_id":1.0,"checkpoint":{}}',
    );
    expect(answer.json).toEqual({
      thread_id: '12345678901234567890',
      checkpoint_ns: '',
      checkpoint_id: '1.0',
    });
    expect((await app.post('get-tuple', '{"thread_id":12345678901234567890}')).json.checkpoint_id).toBe(
      '1.0',
    );
  });

  it('can be read back whatever stands in channel_versions', async () => {
    for (const channel_versions of [[1], 'x', null, 5, { a: null, b: {} }]) {
      const thread_id = aThread();
      expect((await app.post('put', aPut({ thread_id, checkpoint: { channel_versions } }))).status).toBe(200);
      expect(await read(thread_id)).toMatchObject({ checkpoint: { channel_versions }, blobs: [] });
    }
  });

  it('ends in the same rows when repeated, and when two come at once', async () => {
    const thread_id = aThread();
    const blobs = Array.from({ length: 20 }, (_, n) => blob({ channel: `c${n}` }));
    const put = aPut({ thread_id, checkpoint: reading({ c1: '1' }), blobs });
    const rows = () =>
      app.database.sql(
        `select (select json_agg(c) from checkpoints c where thread_id = $1) as c,
                (select json_agg(b order by channel) from checkpoint_blobs b where thread_id = $1) as b`,
        [thread_id],
      );
    await app.post('put', put);
    const once = await rows();
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        app.post('put', { ...put, blobs: n % 2 ? blobs : blobs.toReversed() }),
      ),
    );
    expect(answers.map((answer) => answer.status)).toEqual(Array(10).fill(200));
    expect(await rows()).toEqual(once);
  });

  it('is counted when its id is not above its parent’s, since it is then not the latest', async () => {
    const thread_id = aThread();
    const count = async () =>
      Number(/puts_not_above_parent_total (\d+)/.exec((await app.get('/metrics')).text)?.[1] ?? NaN);
    const before = await count();
    await app.post('put', aPut({ thread_id, checkpoint_id: '5', parent_checkpoint_id: '4' }));
    await app.post('put', aPut({ thread_id, checkpoint_id: '3', parent_checkpoint_id: '5' }));
    expect((await count()) - before).toBe(1);
    expect((await app.post('get-tuple', { thread_id })).json.checkpoint_id).toBe('5');
  });

  it('stores nothing of a request that fails', async () => {
    const thread_id = aThread();
    const deep = '['.repeat(20_000) + ']'.repeat(20_000);
    const answer = await app.post(
      'put',
      `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":{"a":${deep}},
        "blobs":[{"channel":"a","version":"1","type":"t","blob":"QQ=="}]}`,
    );
    expect([answer.status, answer.json.type]).toEqual([422, '/problems/unstorable-document']);
    expect(
      await app.database.sql('select 1 from checkpoint_blobs where thread_id = $1', [thread_id]),
    ).toEqual([]);
  });

  it('is not deadlocked by deletes of the same thread', async () => {
    const thread_id = aThread();
    const blobs = Array.from({ length: 50 }, (_, n) => blob({ channel: `c${n}` }));
    const storm = Array.from({ length: 60 }, (_, n) =>
      n % 3 === 0
        ? app.post('delete-thread', { thread_id })
        : app.post('put', aPut({ thread_id, checkpoint_id: `${n % 5}`, blobs })),
    );
    const statuses = (await Promise.all(storm)).map((answer) => answer.status);
    expect(new Set(statuses)).toEqual(new Set([200, 204]));
  });
});
