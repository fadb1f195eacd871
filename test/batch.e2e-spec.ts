import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { type Answer, startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { Network } from './support/network.js';
import { until } from './support/process.js';

const NDJSON = { 'content-type': 'application/x-ndjson' };

type Item = [operation: 'put' | 'put-writes', request: object | string];

/** The lines of a batch; a string is a line as it is. */
function linesOf(items: Item[]): string {
  return items
    .flatMap(([operation, request]) => [
      JSON.stringify({ operation }),
      typeof request === 'string' ? request : JSON.stringify(request),
    ])
    .map((line) => `${line}\n`)
    .join('');
}

let app: TestApp;
const batch = (items: Item[] | string, headers: Record<string, string> = {}): Promise<Answer> =>
  app.post('batch', typeof items === 'string' ? items : linesOf(items), { ...NDJSON, ...headers });
const statuses = ({ json }: Answer) => json.results.map(({ status }: { status: number }) => status);

const metric = async (name: string) => {
  const { text } = await app.get('/metrics');
  return Number(new RegExp(`^checkpoint_backend_${name} (\\d+)`, 'm').exec(text)?.[1] ?? 0);
};

describe('a batch', () => {
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  it('stores what its operations would have stored alone, and answers as they would', async () => {
    const requests = (thread_id: string): Item[] => [
      ['put-writes', aPutWrites({ thread_id, writes: [aWrite(), aWrite({ idx: 1, type: null, blob: '' })] })],
      ['put', aPut({ thread_id, blobs: [{ channel: 'a', version: '1.0', type: 't', blob: base64('a') }] })],
      ['put', aPut({ thread_id, checkpoint_id: 'checkpoint-2', checkpoint_ns: 'sub', metadata: { n: 1 } })],
      ['put-writes', aPutWrites({ thread_id, writes: [] })],
    ];
    const [alone, together] = [aThread(), aThread()];
    for (const [operation, request] of requests(alone)) {
      expect([200, 204]).toContain((await app.post(operation, request)).status);
    }
    const answer = await batch(requests(together));
    expect(answer.status).toBe(200);
    const key = { thread_id: together, checkpoint_ns: '', checkpoint_id: 'checkpoint-1' };
    expect(answer.json).toEqual({
      results: [
        { status: 204 },
        { status: 200, answer: key },
        { status: 200, answer: { ...key, checkpoint_ns: 'sub', checkpoint_id: 'checkpoint-2' } },
        { status: 204 },
      ],
    });
    const rowsOf = async (thread: string) => {
      const tables = ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes'].map((table) =>
        app.database.sql(
          `select to_jsonb(t) - 'thread_id' as row from ${table} t where thread_id = $1 order by 1`,
          [thread],
        ),
      );
      return Promise.all(tables);
    };
    expect(await rowsOf(together)).toEqual(await rowsOf(alone));
    expect((await rowsOf(together)).map((rows) => rows.length)).toEqual([2, 1, 2]);
    // Sent again it changes nothing.
    expect((await batch(requests(together))).json).toEqual(answer.json);
    expect(await rowsOf(together)).toEqual(await rowsOf(alone));
  });

  it('refuses what is wrong with a request as if it had come alone, and carries out the others', async () => {
    const thread_id = aThread();
    const good = (n: number): Item => ['put', aPut({ thread_id, checkpoint_id: `good-${n}` })];
    const bad: Item[] = [
      ['put', '{"thread_id":'],
      ['put', '[]'],
      ['put', ''],
      ['put-writes', aPutWrites({ thread_id, writes: [aWrite({ idx: 'x' }), aWrite({ blob: '*' })] })],
      ['put', aPut({ thread_id: '' })],
      ['put', aPut({ thread_id, checkpoint_id: 'huge' }).checkpoint],
      ['put', JSON.stringify(aPut({ thread_id })).replace('"metadata":{}', '"metadata":{"n":1e400000}')],
      ['put-writes', aPutWrites({ thread_id, writes: Array.from({ length: 10_001 }, () => 1) })],
    ];
    const alone = [];
    for (const [operation, request] of bad) {
      const { status, json } = await app.post(operation, request);
      alone.push({ status, problem: json });
    }
    expect(alone.map(({ status }) => status)).toEqual([400, 422, 400, 422, 422, 422, 422, 413]);
    const { json } = await batch(bad.flatMap((item, n) => [good(n), item]));
    expect(json.results.filter((_: unknown, at: number) => at % 2 === 1)).toEqual(alone);
    expect(json.results.filter((_: unknown, at: number) => at % 2 === 0)).toEqual(
      bad.map((_, n) => ({
        status: 200,
        answer: { thread_id, checkpoint_ns: '', checkpoint_id: `good-${n}` },
      })),
    );
    const [row] = await app.database.sql('select count(*)::int from checkpoints where thread_id = $1', [
      thread_id,
    ]);
    expect(row).toEqual({ count: bad.length });
  });

  it('carries out the operations of a thread in their order', async () => {
    const thread_id = aThread();
    // Every other one is large, and so would be overtaken.
    const blob = (n: number) => base64(Buffer.alloc(n % 2 === 0 ? 4_000_000 : 10, n));
    const items = Array.from({ length: 8 }, (_, n): Item[] => [
      ['put', aPut({ thread_id, metadata: { n, text: 'x'.repeat(n % 2 === 0 ? 1_000_000 : 1) } })],
      ['put-writes', aPutWrites({ thread_id, writes: [aWrite({ blob: blob(n) })], upsert: true })],
    ]);
    expect(new Set(statuses(await batch(items.flat())))).toEqual(new Set([200, 204]));
    const { json } = await app.post('get-tuple', { thread_id });
    expect(json.metadata).toEqual({ n: 7, text: 'x' });
    expect(json.pending_writes).toEqual([aWrite({ blob: blob(7) })]);
  });

  it('takes large blobs, beside one that is not Base64', async () => {
    const threads = [aThread(), aThread(), aThread()];
    const blobs = threads.map(() => randomBytes(600_000));
    const puts = threads.map((thread_id, n): Item => {
      const own = [{ channel: 'a', version: '1', type: 't', blob: base64(blobs[n] ?? '') }];
      return ['put', aPut({ thread_id, checkpoint: { channel_versions: { a: '1' } }, blobs: own })];
    });
    const broken = JSON.stringify(puts[1]?.[1]).replace(/....(?="}]}$)/, '*!*!');
    const answer = await batch([puts[0] as Item, ['put', broken], puts[2] as Item]);
    expect(statuses(answer)).toEqual([200, 422, 200]);
    expect(answer.json.results[1].problem.errors).toEqual([
      { pointer: '#/blobs/0/blob', detail: 'must be standard Base64 with padding' },
    ]);
    for (const n of [0, 2]) {
      const { json } = await app.post('get-tuple', { thread_id: threads[n] });
      expect(Buffer.from(json.blobs[0].blob, 'base64').equals(blobs[n] ?? Buffer.of())).toBe(true);
    }
  });

  it('may end without a line break, have those of Windows, begin with a byte order mark, and be compressed', async () => {
    const text =
      `\ufeff${linesOf([['put', aPut({ thread_id: aThread() })]]).replaceAll('\n', '\r\n')}`.trimEnd();
    expect(statuses(await batch(text))).toEqual([200]);
    const answer = await fetch(`${app.url}/checkpoints/batch`, {
      method: 'POST',
      headers: { ...NDJSON, 'content-encoding': 'gzip', 'x-agent-api-key': app.key ?? '' },
      body: gzipSync(text),
    });
    expect(((await answer.json()) as { results: unknown[] }).results).toHaveLength(1);
  });

  const put = JSON.stringify(aPut());
  const action = '{"operation":"put"}';
  const unknown = 'must be {"operation":"put"} or {"operation":"put-writes"}';
  it.each([
    [
      'an operation that is none of these',
      `${action}\n${put}\n{"operation":"prune"}\n${put}`,
      `line 3 ${unknown}`,
    ],
    ['a line that is no action', put, `line 1 ${unknown}`],
    ['an action that is not JSON', `put\n${put}`, `line 1 ${unknown}`],
    ['an action that is null', `null\n${put}`, `line 1 ${unknown}`],
    ['a long action', `{"operation":"put","x":"${'x'.repeat(2000)}"}\n${put}`, `line 1 ${unknown}`],
    ['an empty line between', `${action}\n${put}\n\n${action}\n${put}`, `line 3 ${unknown}`],
    [
      'an action without its request',
      `${action}\n${put}\n${action}\n`,
      'line 3 must be followed by a line with the request',
    ],
    ['257 operations', `${action}\n${put}\n`.repeat(257), 'line 513 is beyond the 256 operations of a batch'],
  ])('is refused as a whole for %s, and stores nothing', async (_, text, detail) => {
    const thread_id = aThread();
    const { status, json } = await batch(text.replaceAll('thread-1', thread_id));
    expect([status, json.type, json.errors]).toEqual([
      422,
      '/problems/invalid-request',
      [{ pointer: '#', detail }],
    ]);
    expect((await app.post('get-tuple', { thread_id })).json).toBeNull();
  });

  it('is refused with another content type, when it is empty, and over BODY_LIMIT_BYTES', async () => {
    expect((await batch(linesOf([['put', aPut()]]), { 'content-type': 'application/json' })).status).toBe(
      415,
    );
    expect((await app.post('put', aPut(), NDJSON)).status).toBe(415);
    expect((await batch('')).status).toBe(400);
  });

  it('counts its operations by their own status', async () => {
    const before = await metric('requests_total{operation="put",status="422"}');
    await batch([
      ['put', aPut({ thread_id: '' })],
      ['put', aPut({ thread_id: '' })],
    ]);
    expect(await metric('requests_total{operation="put",status="422"}')).toBe(before + 2);
  });
});

describe('a batch of a tenant', () => {
  beforeAll(async () => {
    app = await startApp({ AUTH_MODE: 'keys' });
  });
  afterAll(() => app.close());

  it('stores what is its own, and takes the scope to write', async () => {
    const keyOf = async (tenant: string, ...scopes: ('read' | 'write')[]) => ({
      'x-agent-api-key': await aKey(app.database, { tenant, scopes }),
    });
    const [a, b, reader] = [
      await keyOf('a', 'read', 'write'),
      await keyOf('b', 'read'),
      await keyOf('a', 'read'),
    ];
    const thread_id = aThread();
    const items: Item[] = [
      ['put-writes', aPutWrites({ thread_id })],
      ['put', aPut({ thread_id })],
    ];
    expect((await batch(items, reader)).status).toBe(403);
    expect((await batch(items)).status).toBe(401);
    const answer = await batch(items, a);
    expect(answer.json.results[1].answer.thread_id).toBe(thread_id);
    expect((await app.post('get-tuple', { thread_id }, b)).json).toBeNull();
    expect((await app.post('get-tuple', { thread_id }, a)).json.pending_writes).toHaveLength(1);
  });
});

describe('a batch whose rows are locked', () => {
  const locked = async (work: () => Promise<void>) => {
    await app.database.sql('begin');
    await app.database.sql('lock table checkpoints');
    await work().finally(() => app.database.sql('commit'));
  };
  afterEach(() => app.close());

  it('has 503 for the operations that the queue has no room for, stores the others, and asks to be sent again', async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1', QUEUE_MAX: '2' });
    const threads = Array.from({ length: 5 }, aThread);
    let answer!: Promise<Answer>;
    await locked(async () => {
      answer = batch(threads.map((thread_id) => ['put', aPut({ thread_id })]));
      await until('they wait', async () => (await metric('queue_refused_total{reason="full"}')) === 2);
    });
    const { status, json, headers } = await answer;
    expect([status, headers['retry-after']]).toEqual([200, '1']);
    expect(json.results.map((result: { status: number }) => result.status)).toEqual([
      200, 200, 200, 503, 503,
    ]);
    expect(json.results[4].problem.type).toBe('/problems/queue-full');
    for (const [n, thread_id] of threads.entries()) {
      expect((await app.post('get-tuple', { thread_id })).json === null).toBe(n > 2);
    }
  });

  it('does nothing more of a thread after an operation that is to be sent again, and goes on with others', async () => {
    app = await startApp({ STATEMENT_TIMEOUT_MS: '500', DATABASE_POOL_MAX: '4' });
    const [stuck, free] = [aThread(), aThread()];
    const put = (thread_id: string, n: number): Item => ['put', aPut({ thread_id, metadata: { n } })];
    expect(statuses(await batch([put(stuck, 0)]))).toEqual([200]);
    await app.database.sql('begin');
    await app.database.sql('select from checkpoints where thread_id = $1 for update', [stuck]);
    const answer = batch([put(stuck, 1), put(free, 1), put(stuck, 2), put(free, 2)]);
    // By then the first has its refusal, and the second would be stored soon.
    await delay(800);
    await app.database.sql('commit');
    const [first, , second, ...rest] = statuses(await answer);
    expect(second).toBe(first);
    expect(rest).toEqual([200]);
    const { json } = await app.post('get-tuple', { thread_id: stuck });
    expect(json.metadata).toEqual({ n: first === 503 ? 0 : 2 });
  });

  it('is over after one outage, however many operations it has', async () => {
    const database = await createDatabase();
    const url = new URL(database.url);
    const network = await Network.open(Number(url.port || 5432), url.hostname);
    url.hostname = '127.0.0.1';
    url.port = String(network.port);
    app = await startApp({ DATABASE_URL: url.href, OUTAGE_WAIT_MS: '1000' }, database);
    try {
      network.mode = 'resetting';
      network.reset();
      const thread_id = aThread();
      const items = Array.from({ length: 60 }, (_, n): Item => ['put', aPut({ thread_id, metadata: { n } })]);
      const began = Date.now();
      expect(new Set(statuses(await batch(items)))).toEqual(new Set([503]));
      expect(Date.now() - began).toBeLessThan(20_000);
    } finally {
      network.close();
      await database.drop();
    }
  });

  it('of hostile requests leaves the others their turns', async () => {
    app = await startApp();
    const rows = (row: object) => Array.from({ length: 99 }, () => row);
    const items = Array.from({ length: 256 }, (): Item => [
      'put-writes',
      { thread_id: 't', checkpoint_id: 'c', writes: rows({}) },
    ]);
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    const before = process.cpuUsage();
    const answer = await batch(items);
    const { user, system } = process.cpuUsage(before);
    clearInterval(timer);
    expect(new Set(statuses(answer))).toEqual(new Set([422]));
    // Compared with what it took: this machine may be busy.
    expect(longest).toBeLessThan(Math.max(250, (user + system) / 1000 / 3));
  });

  it('makes no more of a number than a double needs, so that little does not become much', async () => {
    app = await startApp();
    const blobs = Array.from({ length: 9990 }, () => '{"channel":"","version":1e2590,"type":""}').join();
    const line = `{"thread_id":"t","checkpoint_id":"c","checkpoint":{},"blobs":[${blobs}]}`;
    const answer = await batch(Array.from({ length: 40 }, (): Item => ['put', line]));
    expect(new Set(statuses(answer))).toEqual(new Set([422]));
    expect(answer.json.results[0].problem.errors[0]).toEqual({
      pointer: '#/blobs/0/version',
      detail: 'is a number out of range',
    });
  });

  it('leaves the queue when its client goes away, but for what was begun', async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1' });
    const threads = Array.from({ length: 5 }, aThread);
    await locked(async () => {
      const request = http.request(`${app.url}/checkpoints/batch`, {
        method: 'POST',
        headers: { ...NDJSON, ...(app.key !== undefined && { 'x-agent-api-key': app.key }) },
      });
      request.on('error', () => undefined);
      request.end(linesOf(threads.map((thread_id) => ['put', aPut({ thread_id })])));
      await until('they wait', async () => (await metric('queue_waiting_requests')) === 4);
      request.destroy();
      await until('they have left', async () => (await metric('queue_waiting_requests')) === 0);
    });
    await until(
      'they are counted',
      async () => (await metric('requests_total{operation="put",status="499"}')) === 4,
    );
    await until('the one that was begun is stored', async () => {
      const [row] = await app.database.sql<{ count: number }>('select count(*)::int from checkpoints');
      return row?.count === 1;
    });
  });
});
