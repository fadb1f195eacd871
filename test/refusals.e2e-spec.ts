import { request } from 'node:http';
import { gzipSync } from 'node:zlib';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

const OPERATIONS = ['get-tuple', 'put', 'put-writes', 'list', 'delete-thread'];
const BODY_LIMIT = 1_048_576;
const BLOB_LIMIT = 4096;
const ROWS_LIMIT = 20;

describe('what is refused', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({
      BODY_LIMIT_BYTES: String(BODY_LIMIT),
      BLOB_LIMIT_BYTES: String(BLOB_LIMIT),
      ROWS_LIMIT: String(ROWS_LIMIT),
    });
  });
  afterAll(() => app.close());

  const problem = async (operation: string, body: object | string, headers?: Record<string, string>) => {
    const { status, type, json } = await app.post(operation, body, headers);
    return { status, contentType: type, type: json?.type, detail: json?.detail, errors: json?.errors };
  };

  /** Bytes that supertest would not send as they are. */
  const send = (bytes: Buffer, headers: Record<string, string>) =>
    new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
      const outgoing = request(`${app.url}/checkpoints/put`, { method: 'POST', headers }, (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => {
          resolve({ status: response.statusCode, text });
        });
      });
      outgoing.on('error', reject);
      outgoing.end(bytes);
    });

  describe.each(OPERATIONS)('by %s', (operation) => {
    it.each([
      ['', 'The body is empty'],
      ['{', 'The JSON text ends too early'],
      ['{"thread_id":"t"}x', 'Not JSON at character 17'],
    ])('400 for %j', async (body, detail) => {
      expect(await problem(operation, body)).toMatchObject({
        status: 400,
        contentType: 'application/problem+json; charset=utf-8',
        type: '/problems/malformed-body',
        detail,
      });
    });

    it.each([['[]'], ['null'], ['"text"'], ['1']])('422 for %s', async (body) => {
      expect(await problem(operation, body)).toMatchObject({
        status: 422,
        type: '/problems/invalid-request',
        errors: [{ pointer: '#', detail: 'must be an object' }],
      });
    });

    it.each(['text/plain', 'application/x-www-form-urlencoded', 'application/json; charset=latin1'])(
      '415 for %s',
      async (type) => {
        expect(await problem(operation, '{}', { 'content-type': type })).toMatchObject({
          status: 415,
          type: '/problems/unsupported-media-type',
        });
      },
    );

    it('404 for another method', async () => {
      expect(await app.get(`/checkpoints/${operation}`)).toMatchObject({
        status: 404,
        json: { type: 'about:blank' },
      });
    });
  });

  it('404 for a route that does not exist, whatever the body', async () => {
    for (const [body, type] of [
      ['{', 'application/json'],
      ['x', 'text/plain'],
    ] as const) {
      expect(await problem('nothing', body, { 'content-type': type })).toMatchObject({
        status: 404,
        type: 'about:blank',
      });
    }
  });

  it('400 for bytes that are no UTF-8, and for a body that is not compressed as it says', async () => {
    const json = { 'content-type': 'application/json' };
    const latin1 = await send(Buffer.from('{"thread_id":"\xe9"}', 'latin1'), json);
    expect([latin1.status, JSON.parse(latin1.text).type]).toEqual([400, '/problems/malformed-body']);
    const notGzip = await send(Buffer.from('{}'), { ...json, 'content-encoding': 'gzip' });
    expect([notGzip.status, JSON.parse(notGzip.text).type]).toEqual([400, '/problems/malformed-body']);
    const unknown = await send(Buffer.from('{}'), { ...json, 'content-encoding': 'lzma' });
    expect([unknown.status, JSON.parse(unknown.text).type]).toEqual([
      415,
      '/problems/unsupported-media-type',
    ]);
  });

  it('reads gzip', async () => {
    const body = gzipSync(JSON.stringify(aPut({ thread_id: aThread() })));
    const answer = await send(body, {
      'content-type': 'application/json; charset=UTF-8',
      'content-encoding': 'gzip',
    });
    expect(answer.status).toBe(200);
  });

  const NUL = 'a\0b';
  const LONE = 'a\ud800b';
  const blob = (fields: Record<string, unknown>) =>
    aPut({ blobs: [{ channel: 'a', version: '1', type: 't', blob: 'QQ==', ...fields }] });
  const write = (fields: Record<string, unknown>) => aPutWrites({ writes: [aWrite(fields)] });
  const cases: [operation: string, body: object, pointer: string, detail: RegExp][] = [
    ['get-tuple', {}, '#/thread_id', /is missing/],
    ['get-tuple', { thread_id: null }, '#/thread_id', /must be a string/],
    ['get-tuple', { thread_id: '' }, '#/thread_id', /must not be empty/],
    ['get-tuple', { thread_id: {} }, '#/thread_id', /must be a string/],
    ['get-tuple', { thread_id: [['x']] }, '#/thread_id', /must be a string/],
    ['get-tuple', { thread_id: true }, '#/thread_id', /must be a string/],
    ['get-tuple', { thread_id: NUL }, '#/thread_id', /NUL/],
    ['get-tuple', { thread_id: LONE }, '#/thread_id', /lone surrogate/],
    ['get-tuple', { thread_id: 't', checkpoint_ns: NUL }, '#/checkpoint_ns', /NUL/],
    ['get-tuple', { thread_id: 't', checkpoint_id: [] }, '#/checkpoint_id', /must be a string/],
    ['get-tuple', { thread_id: 't', include: ['everything'] }, '#/include', /any of blobs/],
    ['put', { ...aPut(), checkpoint_id: '' }, '#/checkpoint_id', /must not be empty/],
    ['put', { ...aPut(), checkpoint: undefined }, '#/checkpoint', /is missing/],
    ['put', { ...aPut(), checkpoint: [] }, '#/checkpoint', /must be an object/],
    ['put', { ...aPut(), checkpoint: '{}' }, '#/checkpoint', /must be an object/],
    ['put', { ...aPut(), metadata: 5 }, '#/metadata', /must be an object/],
    ['put', { ...aPut(), parent_checkpoint_id: NUL }, '#/parent_checkpoint_id', /NUL/],
    ['put', { ...aPut(), blobs: {} }, '#/blobs', /must be an array/],
    ['put', { ...aPut(), blobs: [null] }, '#/blobs', /item 0 is none/],
    ['put', { ...aPut(), blobs: [[]] }, '#/blobs', /item 0 is none/],
    ['put', { ...aPut(), blobs: ['x'] }, '#/blobs', /item 0 is none/],
    ['put', blob({ channel: undefined }), '#/blobs/0/channel', /is missing/],
    ['put', blob({ channel: 5 }), '#/blobs/0/channel', /must be a string/],
    ['put', blob({ channel: LONE }), '#/blobs/0/channel', /lone surrogate/],
    ['put', blob({ version: null }), '#/blobs/0/version', /must be a string/],
    ['put', blob({ version: { a: 1 } }), '#/blobs/0/version', /must be a string/],
    ['put', blob({ type: null }), '#/blobs/0/type', /must be a string/],
    ['put', blob({ type: NUL }), '#/blobs/0/type', /NUL/],
    ...['QQ', 'QQ=', 'Q===', '====', 'QQ==QQ==', 'Q Q=', 'QQ\n=', 'QUJ-', 'QUJ_', 'QUI*', 'é==='].map(
      (text): (typeof cases)[number] => ['put', blob({ blob: text }), '#/blobs/0/blob', /Base64/],
    ),
    ['put', blob({ blob: 5 }), '#/blobs/0/blob', /Base64/],
    ['put-writes', { ...aPutWrites(), writes: undefined }, '#/writes', /is missing/],
    ['put-writes', { ...aPutWrites(), writes: null }, '#/writes', /must be an array/],
    ['put-writes', { ...aPutWrites(), upsert: 'true' }, '#/upsert', /true or false/],
    ['put-writes', write({ task_id: '' }), '#/writes/0/task_id', /must not be empty/],
    ['put-writes', write({ idx: 1.5 }), '#/writes/0/idx', /integer from/],
    ['put-writes', write({ idx: '1' }), '#/writes/0/idx', /integer from/],
    ['put-writes', write({ idx: 2147483648 }), '#/writes/0/idx', /integer from/],
    ['put-writes', write({ idx: undefined }), '#/writes/0/idx', /is missing/],
    ['put-writes', write({ blob: null }), '#/writes/0/blob', /Base64/],
    ['put-writes', write({ task_path: NUL }), '#/writes/0/task_path', /NUL/],
    ['list', { limit: 0 }, '#/limit', /integer from 1 to 1000/],
    ['list', { limit: 1001 }, '#/limit', /integer from 1 to 1000/],
    ['list', { limit: '5' }, '#/limit', /integer from 1 to 1000/],
    ['list', { thread_id: '' }, '#/thread_id', /must not be empty/],
    ['list', { filter_metadata: [] }, '#/filter_metadata', /must be an object/],
    ['list', { cursor: 'nonsense' }, '#/cursor', /x-next-cursor/],
    ['list', { cursor: base64('["a","b"]') }, '#/cursor', /x-next-cursor/],
    ['list', { cursor: base64(JSON.stringify(['a', 'b', NUL])) }, '#/cursor', /x-next-cursor/],
    ['delete-thread', {}, '#/thread_id', /is missing/],
  ];
  it.each(cases)('422 by %s for %j', async (operation, body, pointer, detail) => {
    expect(await problem(operation, body)).toEqual({
      status: 422,
      contentType: 'application/problem+json; charset=utf-8',
      type: '/problems/invalid-request',
      detail: 'The request has a fault',
      errors: [{ pointer, detail: expect.stringMatching(detail) }],
    });
  });

  it('lists every fault', async () => {
    const writes = [aWrite(), aWrite({ idx: 'x', blob: '?' }), aWrite({ channel: null })];
    const { errors } = await problem('put-writes', { ...aPutWrites({ writes }), thread_id: '' });
    expect(errors.map((fault: { pointer: string }) => fault.pointer).sort()).toEqual([
      '#/thread_id',
      '#/writes/1/blob',
      '#/writes/1/idx',
      '#/writes/2/channel',
    ]);
  });

  it('ignores unknown fields, also of odd names and any depth', async () => {
    const deep = '{"a":'.repeat(50_000) + '1' + '}'.repeat(50_000);
    const body = `{"thread_id":"t","x":${deep},"__proto__":{"a":1},"constructor":{"prototype":1},"toString":1,"hasOwnProperty":2}`;
    expect((await app.post('get-tuple', body)).status).toBe(200);
  });

  it('takes an integer however it is written', async () => {
    expect((await app.post('list', '{"limit":1e1}')).status).toBe(200);
    expect((await app.post('list', '{"limit":10.0}')).status).toBe(200);
  });

  describe('a key', () => {
    // Random, since an index compresses what repeats.
    const random = (length: number) =>
      Array.from({ length }, () => String.fromCharCode(33 + Math.floor(Math.random() * 90))).join('');
    const parts = (total: number) => ({
      thread_id: random(total - 100),
      checkpoint_ns: random(50),
      checkpoint_id: random(50),
    });

    it('of 2,600 bytes is stored, in each table', async () => {
      const key = parts(2600);
      expect((await app.post('put', aPut(key))).status).toBe(200);
      const { thread_id, checkpoint_ns } = parts(2600);
      const shorter = { thread_id, checkpoint_ns };
      const blobs = [{ channel: random(49), version: 'v', type: 't', blob: null }];
      expect((await app.post('put', aPut({ ...shorter, checkpoint_id: 'c', blobs }))).status).toBe(200);
      const writes = [aWrite({ task_id: random(49) })];
      expect(
        (await app.post('put-writes', aPutWrites({ ...shorter, checkpoint_id: 'c', writes }))).status,
      ).toBe(204);
    });

    it('of one byte more gets 422, counted in bytes', async () => {
      const key = parts(2601);
      const { thread_id, checkpoint_ns } = parts(2601);
      const shorter = { thread_id, checkpoint_ns };
      const fault = (pointer: string) => ({
        status: 422,
        errors: [{ pointer, detail: expect.stringContaining('2600 bytes') }],
      });
      expect(await problem('put', aPut(key))).toMatchObject(fault('#/checkpoint_id'));
      expect(await problem('put', aPut({ thread_id: 'é'.repeat(1299) }))).toMatchObject(
        fault('#/checkpoint_id'),
      );
      expect(await problem('put-writes', aPutWrites(key))).toMatchObject({ status: 422 });
      const blobs = [
        { channel: 'short', version: 'v', type: 't' },
        { channel: random(49), version: 'v', type: 't' },
      ];
      expect(await problem('put', aPut({ ...shorter, checkpoint_id: 'c', blobs }))).toMatchObject(
        fault('#/blobs'),
      );
      const writes = [aWrite(), aWrite({ task_id: random(49) })];
      const answer = await problem('put-writes', aPutWrites({ ...shorter, checkpoint_id: 'c', writes }));
      expect(answer).toMatchObject(fault('#/writes'));
      expect(answer.errors[0].detail).toContain('item 1');
    });
  });

  describe('a limit', () => {
    const limited = (setting: string, limit: number) => ({
      status: 413,
      contentType: 'application/problem+json; charset=utf-8',
      type: '/problems/limit-exceeded',
      detail: expect.stringContaining(`${setting} = ${limit}`),
    });
    const bodyOf = (bytes: number) => {
      const text = JSON.stringify(aPut({ thread_id: 't', metadata: { pad: '' } }));
      return text.replace('"pad":"', `"pad":"${'x'.repeat(bytes - text.length)}`);
    };

    it('of the body holds to the byte, also once it is inflated', async () => {
      expect((await app.post('put', bodyOf(BODY_LIMIT))).status).toBe(200);
      expect(await problem('put', bodyOf(BODY_LIMIT + 1))).toMatchObject(
        limited('BODY_LIMIT_BYTES', BODY_LIMIT),
      );
      const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
      expect((await send(gzipSync(bodyOf(BODY_LIMIT)), headers)).status).toBe(200);
      expect((await send(gzipSync(bodyOf(BODY_LIMIT + 1)), headers)).status).toBe(413);
      expect((await send(gzipSync(Buffer.alloc(200 * BODY_LIMIT)), headers)).status).toBe(413);
    });

    it('of a blob holds to the byte', async () => {
      const put = (bytes: number) => blob({ blob: base64(Buffer.alloc(bytes, 1)) });
      const puts = (bytes: number) => write({ blob: base64(Buffer.alloc(bytes, 1)) });
      expect((await app.post('put', put(BLOB_LIMIT))).status).toBe(200);
      expect((await app.post('put-writes', puts(BLOB_LIMIT))).status).toBe(204);
      expect(await problem('put', put(BLOB_LIMIT + 1))).toMatchObject(
        limited('BLOB_LIMIT_BYTES', BLOB_LIMIT),
      );
      expect(await problem('put-writes', puts(BLOB_LIMIT + 1))).toMatchObject(
        limited('BLOB_LIMIT_BYTES', BLOB_LIMIT),
      );
    });

    it('of the rows holds to the row', async () => {
      const blobs = (n: number) =>
        aPut({
          blobs: Array.from({ length: n }, (_, at) => ({ channel: `${at}`, version: '1', type: 't' })),
        });
      const writes = (n: number) =>
        aPutWrites({ writes: Array.from({ length: n }, (_, idx) => aWrite({ idx })) });
      expect((await app.post('put', blobs(ROWS_LIMIT))).status).toBe(200);
      expect((await app.post('put-writes', writes(ROWS_LIMIT))).status).toBe(204);
      expect(await problem('put', blobs(ROWS_LIMIT + 1))).toMatchObject(limited('ROWS_LIMIT', ROWS_LIMIT));
      expect(await problem('put-writes', writes(ROWS_LIMIT + 1))).toMatchObject(
        limited('ROWS_LIMIT', ROWS_LIMIT),
      );
    });
  });

  it.each(['{"a":1e200000}', `{"a":${'['.repeat(20_000)}${']'.repeat(20_000)}}`])(
    '422 for a document that jsonb cannot hold: %.12s',
    async (document) => {
      const body = `{"thread_id":"t","checkpoint_id":"1","checkpoint":${document}}`;
      expect(await problem('put', body)).toMatchObject({
        status: 422,
        type: '/problems/unstorable-document',
      });
      expect(await problem('list', `{"filter_metadata":${document}}`)).toMatchObject({ status: 422 });
    },
  );
});

describe('the limits as they come', () => {
  it('find a fault among a hundred thousand fields without going through all pairs of them', async () => {
    const app = await startApp();
    const fields = Array.from({ length: 100_000 }, (_, n) => `"k${n}":${n}`).join();
    const before = process.cpuUsage();
    const answers = await Promise.all([
      app.post('prune', `{${fields},"thread_ids":["a"],"strategy":"x"}`),
      app.post('list', `{"limit":{${fields}}}`),
      app.post('put-writes', `{"thread_id":"a","checkpoint_id":"1","writes":[{${fields}}]}`),
      app.post('delete-for-runs', `{"run_ids":[{${fields}}]}`),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([422, 422, 422, 422]);
    // CPU time of this process, in which the service runs. It takes a second; all pairs, a minute.
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1e6).toBeLessThan(15);
    await app.close();
  });

  it('take 10,000 rows and a blob of 32 MiB', async () => {
    const app = await startApp();
    const thread_id = aThread();
    const writes = Array.from({ length: 10_000 }, (_, idx) => aWrite({ idx }));
    expect((await app.post('put-writes', aPutWrites({ thread_id, writes }))).status).toBe(204);
    const blob = base64(Buffer.alloc(32 * 1024 * 1024, 7));
    const checkpoint = { channel_versions: { a: '1' } };
    await app.post(
      'put',
      aPut({ thread_id, checkpoint, blobs: [{ channel: 'a', version: '1', type: 't', blob }] }),
    );
    const tuple = (await app.post('get-tuple', { thread_id })).json;
    expect(tuple.pending_writes).toHaveLength(10_000);
    expect(tuple.blobs[0].blob === blob).toBe(true);
    await app.close();
  });
});
