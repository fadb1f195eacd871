import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import zlib from 'node:zlib';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aThread, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { cleanUp, Service, until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MIB = 1024 * 1024;
const SLOW_MS = 120_000;

let app: TestApp;
let clients: RawClient[] = [];
afterEach(async () => {
  for (const { socket } of clients) socket.destroy();
  clients = [];
  await app.close();
});

async function open(): Promise<RawClient> {
  const client = await RawClient.open(app.url);
  clients.push(client);
  return client;
}

/** The bytes of a request for an operation, with the headers. */
function request(body: string | Buffer, ...headers: string[]): Buffer {
  const lines = ['POST /checkpoints/get-tuple HTTP/1.1', 'Host: test', `Content-Length: ${body.length}`];
  if (!headers.some((header) => /^content-type:/i.test(header))) lines.push('Content-Type: application/json');
  return Buffer.concat([Buffer.from([...lines, ...headers, '', ''].join('\r\n')), Buffer.from(body)]);
}

const BODY = JSON.stringify({ thread_id: 'none' });

/** How many answers have come. */
const answersOf = ({ answer }: RawClient) => answer.match(/HTTP\/1\.1 \d{3}/g)?.length ?? 0;

const gauge = async (name: string) => {
  const { text } = await app.get('/metrics');
  return Number(new RegExp(`^checkpoint_backend_${name} (\\d+)`, 'm').exec(text)?.[1]);
};

const isServed = () =>
  fetch(`${app.url}/health/live`).then(
    ({ ok }) => ok,
    () => false,
  );

describe('an idle connection', () => {
  it(
    'is still there after the idle time of Node, and says for how long',
    async () => {
      app = await startApp();
      const client = (await open()).write(request(BODY));
      expect(await client.status()).toBe(200);
      expect(client.answer).toMatch(/^Keep-Alive: timeout=620\r$/m);
      await delay(8000);
      client.write(request(BODY));
      await until('the second answer', () => answersOf(client) === 2);
    },
    SLOW_MS,
  );

  it('is closed after KEEP_ALIVE_TIMEOUT_MS', async () => {
    app = await startApp({ KEEP_ALIVE_TIMEOUT_MS: '1000' });
    const client = (await open()).write(request(BODY));
    expect(await client.closed()).toMatch(/^HTTP\/1\.1 200 /);
  });

  it('makes room over MAX_CONNECTIONS, the longest idle one first; busy ones stay', async () => {
    app = await startApp({ MAX_CONNECTIONS: '4', QUEUE_WAIT_MS: '60000' });
    const [busy, first, second, third] = [await open(), await open(), await open(), await open()];
    await app.database.sql('begin');
    await app.database.sql('lock table checkpoints');
    busy.write(request(BODY));
    await until('it is busy', () => app.received() >= 1);
    const fifth = await open();
    await until('the first is closed', () => first.socket.readableEnded || first.socket.closed);
    expect([busy, second, third, fifth].map(({ socket }) => socket.closed || socket.readableEnded)).toEqual([
      ...[false, false, false, false],
    ]);
    await app.database.sql('rollback');
    expect(await busy.status()).toBe(200);
    fifth.write(request(BODY));
    expect(await fifth.status()).toBe(200);
  });

  it('is refused over MAX_CONNECTIONS when all are busy', async () => {
    app = await startApp({ MAX_CONNECTIONS: '2', QUEUE_WAIT_MS: '60000' });
    await app.database.sql('begin');
    await app.database.sql('lock table checkpoints');
    const busy = [await open(), await open()];
    for (const client of busy) client.write(request(BODY));
    await until('both are busy', () => app.received() >= 2);
    expect(await (await open()).closed()).toBe('');
    await app.database.sql('rollback');
    expect(await Promise.all(busy.map((client) => client.status()))).toEqual([200, 200]);
  });

  it(
    'is closed when nobody takes its answer, also of what asks for no key',
    async () => {
      app = await startApp({ MAX_CONNECTIONS: '4', STALL_TIMEOUT_MS: '1000' });
      for (let n = 0; n < 4; n += 1) {
        const { socket } = await open();
        socket.pause();
        // Far more than the kernel's buffers hold.
        socket.write('GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n'.repeat(30));
      }
      await delay(500);
      expect(await (await open()).closed()).toBe(''); // all are busy
      await until('there is room again', isServed);
    },
    SLOW_MS,
  );

  it(
    'is closed when its body comes a byte at a time while all are taken',
    async () => {
      app = await startApp({ MAX_CONNECTIONS: '4', QUEUE_WAIT_MS: '2000' });
      const slow = [await open(), await open(), await open(), await open()];
      for (const client of slow) client.write(request(' '.repeat(1000)).subarray(0, -999));
      const trickle = setInterval(() => {
        for (const { socket } of slow) if (socket.writable) socket.write(' ');
      }, 200);
      try {
        await delay(1000);
        expect(await (await open()).closed()).toBe(''); // all are busy
        await until('there is room again', isServed);
      } finally {
        clearInterval(trickle);
      }
    },
    SLOW_MS,
  );

  it('is counted', async () => {
    app = await startApp();
    await open();
    await open();
    await until('they are there', async () => (await gauge('client_connections')) === 3);
  });
});

describe('requests that follow each other on a connection', () => {
  it('are all heard to be gone when it is reset while the first one waits', async () => {
    app = await startApp({ QUEUE_WAIT_MS: '60000' });
    await app.database.sql('begin');
    await app.database.sql('lock table checkpoints');
    for (let n = 0; n < 5; n += 1) {
      const client = (await open()).write(Buffer.concat(Array.from({ length: 5 }, () => request(BODY))));
      await until('they have come', () => app.received() >= 5 * (n + 1));
      client.socket.resetAndDestroy();
    }
    // The scrape itself is one.
    await until('none is in flight', async () => (await gauge('requests_in_flight')) === 1);
    expect(await gauge('inflight_bytes')).toBe(0);
    await app.database.sql('rollback');
    await until('they are counted', async () => {
      const { text } = await app.get('/metrics');
      return text.includes('requests_total{operation="get-tuple",status="499"} 25\n');
    });
  });

  it(
    'are read up to a bound ahead of their answers, and all answered',
    async () => {
      app = await startApp({ QUEUE_MAX: '100000', QUEUE_WAIT_MS: '60000' });
      const COUNT = 3000;
      await app.database.sql('begin');
      await app.database.sql('lock table checkpoints');
      const client = (await open()).write(Buffer.concat(Array.from({ length: COUNT }, () => request(BODY))));
      await until('some have come', () => app.received() >= 32);
      await delay(1000);
      // The rest of what was read when the bound was reached: a chunk of the socket.
      expect(app.received()).toBeLessThan(1500);
      await app.database.sql('rollback');
      while (answersOf(client) < COUNT && !client.socket.closed) await delay(200);
      expect(answersOf(client)).toBe(COUNT);
    },
    SLOW_MS,
  );

  it('are answered in their order, refused ones among them', async () => {
    app = await startApp();
    const bodies = [BODY, '{', BODY, '{"thread_id":""}', BODY];
    const client = (await open()).write(Buffer.concat(bodies.map((body) => request(body))));
    await until('all are answered', () => answersOf(client) === 5);
    expect(client.answer.match(/(?<=HTTP\/1\.1 )\d{3}/g)).toEqual(['200', '400', '200', '422', '200']);
  });
});

describe('Expect: 100-continue', () => {
  const expecting = (length: number, ...headers: string[]) =>
    request('', `Expect: 100-continue`, ...headers)
      .toString()
      .replace('Content-Length: 0', `Content-Length: ${length}`);

  it('asks for a body that is taken', async () => {
    app = await startApp();
    for (const body of [BODY, JSON.stringify({ thread_id: 'none', x: 'y'.repeat(MIB) })]) {
      const client = (await open()).write(expecting(body.length));
      await until('it is asked for', () => client.answer.includes('\r\n\r\n'));
      expect(client.answer).toMatch(/^HTTP\/1\.1 100 /);
      client.write(body);
      await until('the answer', () => answersOf(client) === 2);
      expect(client.answer).toMatch(/HTTP\/1\.1 200 .*\r\n/);
      // The connection goes on.
      client.write(request(BODY));
      await until('the next answer', () => answersOf(client) === 3);
    }
  });

  it('asks for none that is refused: no key, too long, another type', async () => {
    app = await startApp({ AUTH_MODE: 'keys' });
    const key = `X-Agent-Api-Key: ${await aKey(app.database, { scopes: ['read'] })}`;
    for (const [head, status] of [
      [expecting(100), '401'],
      [expecting(99_999_999_999, key), '413'],
      [expecting(99_999_999_999, key, 'Content-Encoding: gzip'), '413'],
      [expecting(100, key, 'Content-Type: text/plain'), '415'],
      [expecting(100, key, 'Content-Encoding: zstd'), '415'],
    ] as const) {
      const client = (await open()).write(head);
      // Nobody can tell whether its body follows, so it is the last request.
      expect(await client.closed()).toMatch(new RegExp(`^HTTP/1\\.1 ${status} (?!.*HTTP/1)`, 's'));
    }
    const other = (await open()).write(request(BODY, 'Expect: something', key));
    expect(await other.status()).toBe(417);
  });
});

describe('a body', () => {
  const post = async (body: string | Buffer, ...headers: string[]) => {
    const client = (await open()).write(request(body, ...headers));
    const status = await client.status();
    client.socket.destroy();
    return status;
  };
  const typed = (type: string) => post(BODY, `Content-Type: ${type}`);

  it('is JSON by any way to say so in UTF-8', async () => {
    app = await startApp();
    for (const type of [
      ...['application/json', 'Application/JSON', 'application/json;', 'application/json ; charset=utf-8'],
      ...[
        'application/json; charset="UTF-8"',
        'application/json;charset=utf8',
        'application/json;;charset=utf-8;',
      ],
      ...[
        'application/json; charset=utf-8; boundary=x',
        'application/json; odata.metadata=minimal; x="a;b\\""',
      ],
    ]) {
      expect([type, await typed(type)]).toEqual([type, 200]);
    }
    for (const type of [
      ...[
        'text/plain',
        'application/jsonp',
        'application/json-seq',
        'application/json x',
        'application/json; charset',
      ],
      ...[
        'application/json; charset=utf-16',
        'application/json; x=1; charset="iso-8859-1"',
        'application/json; x="',
      ],
      ...['application/json, application/json', 'application/vnd.api+json'],
    ]) {
      expect([type, await typed(type)]).toEqual([type, 415]);
    }
  });

  it('may begin with a byte order mark', async () => {
    app = await startApp();
    expect(await post(Buffer.from(`\ufeff${BODY}`))).toBe(200);
    expect(await post(zlib.gzipSync(`\ufeff${BODY}`), 'Content-Encoding: gzip')).toBe(200);
    for (const body of ['\ufeff', `\ufeff\ufeff${BODY}`, `{\ufeff}`])
      expect(await post(Buffer.from(body))).toBe(400);
  });

  it('is inflated by any name of its encoding, once', async () => {
    app = await startApp();
    const gzip = zlib.gzipSync(BODY);
    for (const encoding of ['gzip', 'x-gzip', 'X-GZip', 'GZIP', 'identity, gzip', ' gzip ,']) {
      expect([encoding, await post(gzip, `Content-Encoding: ${encoding}`)]).toEqual([encoding, 200]);
    }
    expect(await post(zlib.deflateSync(BODY), 'Content-Encoding: deflate')).toBe(200);
    expect(await post(zlib.brotliCompressSync(BODY), 'Content-Encoding: br')).toBe(200);
    for (const encoding of ['identity', '', 'identity, identity']) {
      expect(await post(BODY, `Content-Encoding: ${encoding}`)).toBe(200);
    }
    for (const encoding of ['gzip, gzip', 'zstd', 'compress', 'gzip;q=1', '__proto__', 'constructor']) {
      expect([encoding, await post(gzip, `Content-Encoding: ${encoding}`)]).toEqual([encoding, 415]);
    }
  });

  it.each([
    // Each inflates to nothing: an empty stored block of deflate, a member of gzip, an empty metablock of brotli.
    ['gzip', zlib.gzipSync('').subarray(0, 10), Buffer.from('000000ffff', 'hex')],
    ['gzip', Buffer.alloc(0), zlib.gzipSync('')],
    ['deflate', Buffer.from('789c', 'hex'), Buffer.from('000000ffff', 'hex')],
    ['br', Buffer.from('06', 'hex'), Buffer.from('06', 'hex')],
  ])(
    'of %s that inflates to nothing, without end, is refused at its limit',
    async (encoding, head, block) => {
      app = await startApp({ BODY_LIMIT_BYTES: String(MIB) });
      const blocks = Buffer.concat(Array.from({ length: Math.ceil(65_536 / block.length) }, () => block));
      const chunk = Buffer.concat([
        Buffer.from(`${blocks.length.toString(16)}\r\n`),
        blocks,
        Buffer.from('\r\n'),
      ]);
      const client = await open();
      client.post('put', 'Transfer-Encoding: chunked', `Content-Encoding: ${encoding}`);
      client.write(
        Buffer.concat([Buffer.from(`${head.length.toString(16)}\r\n`), head, Buffer.from('\r\n')]).subarray(
          head.length === 0 ? 5 : 0,
        ),
      );
      for (let sent = 0; sent < 8 * MIB && answersOf(client) === 0; sent += blocks.length) {
        client.write(chunk);
        await delay(5);
      }
      expect([400, 413]).toContain(await client.status());
    },
  );

  it('of many small chunks is the same body', async () => {
    app = await startApp();
    const chunks = BODY.split('')
      .map((character) => `1;a=b\r\n${character}\r\n`)
      .join('');
    const client = await open();
    client.post('get-tuple', 'Transfer-Encoding: chunked').write(`${chunks}0\r\nX-Trailer: 1\r\n\r\n`);
    expect(await client.status()).toBe(200);
  });
});

describe('the log', () => {
  afterEach(cleanUp, SLOW_MS);

  it(
    'has no warning after long compressed answers, which leave no listeners behind',
    async () => {
      app = await startApp(); // for afterEach
      const database = await createDatabase();
      const service = await Service.start({ DATABASE_URL: database.url, LOG_LEVEL: 'info' }).ready();
      const thread_id = aThread();
      const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(randomBytes(9 * MIB)) }];
      const checkpoint = { channel_versions: { a: '1' }, text: 'é'.repeat(3 * MIB) };
      expect((await service.post('put', aPut({ thread_id, checkpoint, blobs }))).status).toBe(200);
      for (const encoding of ['gzip', 'br', 'deflate']) {
        const answer = await fetch(`${service.url}/checkpoints/get-tuple`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', 'accept-encoding': encoding },
          body: JSON.stringify({ thread_id }),
        });
        const { blobs: found } = (await answer.json()) as { blobs: { blob: string }[] };
        expect([answer.headers.get('content-encoding'), found[0]?.blob === blobs[0]?.blob]).toEqual([
          encoding,
          true,
        ]);
      }
      await service.stop();
      expect(service.log).not.toContain('MaxListeners');
      for (const line of service.log.split('\n').filter(Boolean))
        expect(() => JSON.parse(line) as unknown).not.toThrow();
      await database.drop();
    },
    SLOW_MS,
  );

  it(
    'has the warnings of Node as lines of JSON, of the process that they come from',
    async () => {
      app = await startApp(); // for afterEach
      const database = await createDatabase();
      const script = 'setInterval(()=>process.emitWarning(%22look%22),300).unref()';
      for (const WORKERS of ['1', '2']) {
        const service = await Service.start({
          ...{ DATABASE_URL: database.url, WORKERS, LOG_LEVEL: 'info' },
          NODE_OPTIONS: `--import=data:text/javascript,${script}`,
        }).ready();
        const lines = () =>
          service.log
            .split('\n')
            .filter((line) => line.startsWith('{') && line.includes('"look"'))
            .map((line) => JSON.parse(line) as { level: string; kind: string; worker?: number });
        const expected = WORKERS === '1' ? [undefined] : [undefined, 1, 2];
        await until('each process has said so', () =>
          expected.every((worker) =>
            lines().some(
              (line) => line.worker === worker && line.level === 'warn' && line.kind === 'Warning',
            ),
          ),
        );
        await service.stop();
      }
      await database.drop();
    },
    SLOW_MS,
  );
});
