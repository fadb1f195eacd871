import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http, { type IncomingMessage, type RequestListener } from 'node:http';
import https from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { deflateSync, gunzipSync, gzipSync } from 'node:zlib';
import { gzipped, gzippedByStream } from '../../../clients/typescript/src/gzip.js';
import { CheckpointHttpError, HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { byNode } from '../../../clients/typescript/src/sending/by-node.js';
import { startApp, type TestApp } from '../../support/app.js';
import { Authority } from '../../support/certificates.js';
import { compiledClient } from '../../support/client.mjs';

const READ = { configurable: { thread_id: 'thread-1' } };
const WRITE = { configurable: { thread_id: 'thread-1', checkpoint_id: 'c' } };

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

/** A server on a free port, and the sockets of its requests. */
async function aServer(
  handler: RequestListener,
  { host = '127.0.0.1', tls = undefined as https.ServerOptions | undefined } = {},
): Promise<{ url: string; port: number; sockets: Socket[] }> {
  const sockets: Socket[] = [];
  const listener: RequestListener = (request, response) => {
    sockets.push(request.socket);
    handler(request, response);
  };
  const server = tls === undefined ? http.createServer(listener) : https.createServer(tls, listener);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  closers.push(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  const name = host.includes(':') ? `[${host}]` : host;
  return { url: `${tls === undefined ? 'http' : 'https'}://${name}:${port}`, port, sockets };
}

/** Answers every request with the JSON text. */
const says = (json: string, headers: Record<string, string> = {}): RequestListener => {
  return (request, response) => {
    request.resume().on('end', () => response.writeHead(200, headers).end(json));
  };
};

/** As the service gives it, with the text in the metadata. */
const aTuple = (text: string) =>
  JSON.stringify({
    ...{ thread_id: 'thread-1', checkpoint_ns: '', checkpoint_id: 'c', parent_checkpoint_id: null },
    ...{ checkpoint: { v: 4, id: 'c' }, metadata: { text }, blobs: [], pending_writes: [] },
  });

const textOf = async (saver: HttpCheckpointSaver) =>
  ((await saver.getTuple(READ))?.metadata as unknown as { text?: string } | undefined)?.text;

async function errorOf(promise: Promise<unknown>): Promise<CheckpointHttpError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CheckpointHttpError);
  return error as CheckpointHttpError;
}

describe('by Node', () => {
  it('is the way of every saver here', () => {
    expect(byNode('http://127.0.0.1:5003/checkpoints/')).toBeInstanceOf(Function);
  });

  it('requests one after another go over one connection, which savers share', async () => {
    const { url, sockets } = await aServer(says('null'));
    for (let n = 0; n < 20; n++) await new HttpCheckpointSaver({ baseUrl: url }).getTuple(READ);
    expect([sockets.length, new Set(sockets).size]).toEqual([20, 1]);
  });

  it('a connection that the service has closed meanwhile is no fault', async () => {
    const { url, sockets } = await aServer(says('null'));
    const saver = new HttpCheckpointSaver({ baseUrl: url, backoffMs: 1 });
    for (let n = 0; n < 5; n++) {
      await saver.getTuple(READ);
      sockets.at(-1)?.destroy();
    }
    expect(new Set(sockets).size).toBe(5);
  });

  it('a connection is closed when it was idle for as long as the other side announced', async () => {
    const { url, sockets } = await aServer(
      says('null', { connection: 'keep-alive', 'keep-alive': 'timeout=2' }),
    );
    await new HttpCheckpointSaver({ baseUrl: url }).getTuple(READ);
    const began = Date.now();
    if (!sockets[0]!.destroyed) await once(sockets[0]!, 'close');
    expect(Date.now() - began).toBeLessThan(4_000);
  });

  it('a request is what fetch would send', async () => {
    const seen: { headers: IncomingMessage['headers']; body: string; path?: string }[] = [];
    const { url, port } = await aServer((request, response) => {
      void buffer(request).then((body) => {
        seen.push({ headers: request.headers, body: body.toString(), path: request.url });
        response.writeHead(204).end();
      });
    });
    const options = {
      baseUrl: `${url}/a b/`,
      apiKey: 'kéy\n',
      headers: { 'X-Request-Id': 'r', 'X-T': 'ö ' },
    };
    for (const fetch of [undefined, globalThis.fetch]) {
      const saver = new HttpCheckpointSaver({ ...options, fetch });
      await saver.putWrites(WRITE, [['a', 'ä\u{1f326}'.repeat(10)]], 'task');
    }
    const [mine, theirs] = seen;
    expect(mine!.body).toBe(theirs!.body);
    expect(mine!.path).toBe('/a%20b/checkpoints/put-writes');
    expect(mine!.path).toBe(theirs!.path);
    const of = (headers: IncomingMessage['headers']) =>
      Object.entries(headers).filter(
        ([name]) =>
          !['user-agent', 'accept-language', 'sec-fetch-mode', 'cache-control', 'pragma'].includes(name),
      );
    expect(new Set(of(mine!.headers))).toEqual(new Set(of(theirs!.headers)));
    expect(mine!.headers).toMatchObject({ host: `127.0.0.1:${port}`, 'x-t': 'ö' });
  });

  it('an address may be one of version 6', async () => {
    const { url } = await aServer(says('null'), { host: '::1' });
    expect(await new HttpCheckpointSaver({ baseUrl: url }).getTuple(READ)).toBeUndefined();
  });

  it.each([
    ['as it is', (json: Buffer) => json, {}],
    ['gzipped', gzipSync, { 'content-encoding': 'gzip' }],
    ['deflated', deflateSync, { 'content-encoding': 'deflate' }],
  ])('a long answer is read to its end, %s', async (_name, encode, headers) => {
    const text = 'ü\u{1f326}\0\ufeff'.repeat(200_000);
    const { url } = await aServer((request, response) => {
      request.resume().on('end', () => {
        response.writeHead(200, headers);
        // Pieces that end inside of characters.
        const bytes = encode(Buffer.from(aTuple(text)));
        for (let at = 0; at < bytes.length; at += 9_973) response.write(bytes.subarray(at, at + 9_973));
        response.end();
      });
    });
    expect(await textOf(new HttpCheckpointSaver({ baseUrl: url }))).toBe(text);
  });

  it('an answer that is not what its encoding says is a failure', async () => {
    const { url, sockets } = await aServer(says('null', { 'content-encoding': 'gzip' }));
    const error = await errorOf(new HttpCheckpointSaver({ baseUrl: url, deadlineMs: 3000 }).getTuple(READ));
    expect(error.message).toContain('incorrect header check');
    expect(sockets.length).toBeGreaterThan(1);
  });

  it.each([301, 302, 303, 307, 308])('%d is not followed, so the key stays here', async (status) => {
    const elsewhere = await aServer(says('null'));
    const moved = await aServer((request, response) => {
      request.resume().on('end', () => response.writeHead(status, { location: elsewhere.url }).end());
    });
    const error = await errorOf(new HttpCheckpointSaver({ baseUrl: moved.url, apiKey: 'k' }).getTuple(READ));
    expect(error.message).toContain(`redirects to ${elsewhere.url}`);
    expect([elsewhere.sockets.length, moved.sockets.length]).toEqual([0, 1]);
  });

  it.each([
    ['while it waits for the answer', () => undefined],
    ['in the middle of the answer', (response: http.ServerResponse) => void response.write('{"thread_id":')],
  ])('a read that is aborted closes its connection: %s', async (_name, begin) => {
    const stop = new AbortController();
    let closed: Promise<unknown> | undefined;
    const { url, sockets } = await aServer((request, response) => {
      request.resume();
      closed = once(request.socket, 'close');
      begin(response);
      setTimeout(() => {
        stop.abort(new Error('enough'));
      }, 30);
    });
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    await expect(saver.getTuple({ ...READ, signal: stop.signal })).rejects.toThrow('enough');
    await closed;
    expect(sockets).toHaveLength(1);
  });

  it('an attempt that got no answer in time closes its connection', async () => {
    const { url, sockets } = await aServer((request) => void request.resume());
    const saver = new HttpCheckpointSaver({ baseUrl: url, timeoutMs: 500, deadlineMs: 1500, backoffMs: 1 });
    const error = await errorOf(saver.getTuple(READ));
    expect(error.cause).toMatchObject({ name: 'TimeoutError' });
    expect(new Set(sockets).size).toBe(error.attempts);
    await delay(50);
    expect(sockets.map(({ destroyed }) => destroyed)).not.toContain(false);
  });

  it('a mixed-up connection is closed', async () => {
    let asked = 0;
    const { url, sockets } = await aServer((request, response) => {
      const id = ++asked === 1 ? 'another' : String(request.headers['x-request-id']);
      request.resume().on('end', () => response.writeHead(200, { 'x-request-id': id }).end('null'));
    });
    const saver = new HttpCheckpointSaver({ baseUrl: url, backoffMs: 1 });
    await saver.getTuple(READ);
    await saver.getTuple(READ);
    expect(sockets).toHaveLength(3);
    expect(sockets[1] === sockets[2]).toBe(false);
  });

  it.each(['a\u0001b', 'a\u007f', 'a\nb', 'a\u0100'])(
    'a key that no header can hold is refused: %j',
    async (key) => {
      const { url, sockets } = await aServer(says('null'));
      const named = expect.objectContaining({
        name: 'TypeError',
        message: 'The header "x-agent-api-key" has a name or value that HTTP does not allow',
      }) as Error;
      expect(() => new HttpCheckpointSaver({ baseUrl: url, apiKey: key })).toThrow(named);
      const saver = new HttpCheckpointSaver({ baseUrl: url, apiKey: () => key });
      await expect(saver.getTuple(READ)).rejects.toEqual(named);
      expect(sockets).toHaveLength(0);
    },
  );
});

describe('fetch is used instead', () => {
  const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
  const NEXT = Symbol.for('next-patch');
  const world = globalThis as Record<symbol, unknown>;
  const plain = globalThis.fetch;
  afterEach(() => {
    globalThis.fetch = plain;
    for (const name of [DISPATCHER, NEXT]) Reflect.deleteProperty(world, name);
  });

  /** A dispatcher of undici of that class, with options as it keeps them. */
  const aDispatcher = (name: string, options?: object) => ({
    constructor: { name },
    ...(options && { [Symbol('options')]: options }),
  });

  it.each<[string, boolean, () => void]>([
    ['never by itself', false, () => undefined],
    ['within Next.js 15', true, () => (world[NEXT] = true)],
    ['within Next.js 14', true, () => Object.assign(globalThis.fetch, { __nextPatched: true })],
    ['behind a proxy agent', true, () => (world[DISPATCHER] = aDispatcher('EnvHttpProxyAgent'))],
    [
      'not with the agent that undici sets by itself',
      false,
      () => (world[DISPATCHER] = aDispatcher('Agent')),
    ],
    [
      'nor with that one and its options',
      false,
      () => (world[DISPATCHER] = aDispatcher('Agent', { connect: undefined })),
    ],
    [
      'with an agent that connects in its own way',
      true,
      () => (world[DISPATCHER] = aDispatcher('Agent', { connect: {} })),
    ],
  ])('%s', async (_name, isUsed, setUp) => {
    const { url } = await aServer(says('null'));
    let used = 0;
    globalThis.fetch = (...request) => {
      used += 1;
      return plain(...request);
    };
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    setUp();
    await saver.getTuple(READ);
    expect(used).toBe(isUsed ? 1 : 0);
  });
});

it('a text is gzipped the same in every runtime', async () => {
  const bytes = new TextEncoder().encode('all work and no play '.repeat(10_000));
  for (const zipped of [await gzipped(bytes), await gzippedByStream(bytes)]) {
    expect(zipped!.length).toBeLessThan(bytes.length / 10);
    expect(gunzipSync(zipped!)).toEqual(Buffer.from(bytes));
  }
});

describe('in a process of its own', () => {
  let app: TestApp;
  let client: Awaited<ReturnType<typeof compiledClient>>;
  beforeAll(async () => {
    [app, client] = [await startApp(), await compiledClient()];
  });
  afterAll(async () => {
    client.remove();
    await app.close();
  });

  /** Runs a module that has `client`, the package, and prints; warnings end it. */
  async function run(
    program: string,
    env: Record<string, string> = {},
    options: string[] = [],
  ): Promise<string> {
    const file = join(client.directory, `${randomUUID()}.mjs`);
    writeFileSync(
      file,
      `process.on('warning', (warning) => { console.log(String(warning)); process.exitCode = 1; });\n${program}`,
    );
    const environment = { PATH: process.env.PATH, CLIENT: client.url, URL: app.url, ...env };
    return new Promise((resolve, reject) => {
      execFile(process.execPath, [...options, file], { env: environment }, (error, stdout, stderr) => {
        if (error === null) resolve(stdout.trim() + stderr.trim());
        else reject(new Error(stdout + stderr, { cause: error }));
      });
    });
  }

  const ROUND_TRIP = `
    const { createCheckpointer } = await import(process.env.CLIENT);
    const saver = createCheckpointer({ baseUrl: process.env.URL, deadlineMs: 5_000 });
    const key = { thread_id: String(Math.random()), checkpoint_ns: '' };
    const checkpoint = { v: 4, id: 'c', ts: '', channel_values: { a: 'x'.repeat(100_000) }, channel_versions: { a: 1 }, versions_seen: {} };
    try {
      await saver.put({ configurable: key }, checkpoint, { source: 'input', step: -1, parents: {} }, { a: 1 });
      const tuple = await saver.getTuple({ configurable: key });
      console.log(tuple.checkpoint.channel_values.a.length, by.join());
    } catch (error) {
      console.log(error.message);
    }`;

  /** Says by what requests were sent. */
  const WATCHED = `
    import http from 'node:http';
    import https from 'node:https';
    const by = [];
    for (const module of [http, https]) {
      const { request } = module;
      module.request = (...some) => (by.push('node'), request(...some));
    }
    const { fetch } = globalThis;
    globalThis.fetch = (...some) => (by.push('fetch'), fetch(...some));`;

  it('the package sends by Node, and keeps no process from ending', async () => {
    const began = Date.now();
    expect(await run(WATCHED + ROUND_TRIP)).toBe('100000 node,node');
    expect(Date.now() - began).toBeLessThan(30_000);
  });

  it.each([
    ['without process', 'globalThis.process = undefined;'],
    ['in Node before 20.16', 'process.getBuiltinModule = undefined;'],
    ['in Bun', "Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Bun/1.2' } });"],
    [
      'in Cloudflare Workers',
      "Object.defineProperty(globalThis, 'navigator', { value: { userAgent: 'Cloudflare-Workers' } });",
    ],
  ])('the package loads and sends by fetch %s', async (_name, change) => {
    const kept = 'const { CLIENT, URL: url } = process.env; const process_ = process;';
    const trip = ROUND_TRIP.replace('process.env.CLIENT', 'CLIENT').replace('process.env.URL', 'url');
    expect(await run(`${WATCHED}${kept}${change}${trip}; globalThis.process = process_;`)).toBe(
      '100000 fetch,fetch',
    );
  });

  it('no module of the package imports one of Node', () => {
    const files = readdirSync(client.directory, { recursive: true, encoding: 'utf8' }).filter((file) =>
      file.endsWith('.js'),
    );
    expect(files.length).toBeGreaterThan(10);
    for (const file of files) {
      const code = readFileSync(join(client.directory, file), 'utf8');
      expect(code).not.toMatch(/(from|import|require)\s*\(?\s*['"](node:|https?['"]|zlib)/);
    }
  });

  it('a certificate is known by NODE_EXTRA_CA_CERTS, and refused at once without', async () => {
    const authority = new Authority();
    try {
      const forward: RequestListener = (request, response) => {
        const options = { method: 'POST', headers: request.headers };
        const forwarded = http.request(app.url + String(request.url), options, (answer) => {
          response.writeHead(answer.statusCode ?? 0, answer.headers);
          answer.pipe(response);
        });
        request.pipe(forwarded);
      };
      const { url } = await aServer(forward, { tls: authority.issue('IP:127.0.0.1') });
      const ca = join(client.directory, 'ca.pem');
      writeFileSync(ca, authority.cert);
      expect(await run(WATCHED + ROUND_TRIP, { URL: url, NODE_EXTRA_CA_CERTS: ca })).toBe('100000 node,node');
      const refused = await run(WATCHED + ROUND_TRIP, { URL: url });
      expect(refused).toContain(`no answer from ${url}`);
      expect(refused).toContain('UNABLE_TO_VERIFY_LEAF_SIGNATURE');
      expect(refused).not.toContain('attempts');
      rmSync(ca);
    } finally {
      authority.remove();
    }
  });

  // Node 22.21 and 24.0 brought it.
  const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
  const itWithProxies = major >= 24 || (major === 22 && minor >= 21) ? it : it.skip;
  itWithProxies('a proxy of NODE_USE_ENV_PROXY is used', async () => {
    let asked = 0;
    const { url } = await aServer((request, response) => {
      asked += 1;
      request.resume();
      response.writeHead(502).end();
    });
    const env = { HTTP_PROXY: url, NODE_USE_ENV_PROXY: '1', URL: 'http://checkpoints.invalid:5003' };
    await run(WATCHED + ROUND_TRIP.replace('5_000', '300'), env);
    expect(asked).toBeGreaterThan(0);
  });
});
