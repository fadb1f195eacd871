import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { type AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import { jest } from '@jest/globals';
import {
  fromBase64,
  fromBase64WithoutBuffer,
  toBase64,
  toBase64WithoutBuffer,
} from '../../../clients/typescript/src/base64.js';
import {
  CheckpointHttpError,
  HttpCheckpointSaver,
  type HttpCheckpointSaverOptions,
  createCheckpointer,
} from '../../../clients/typescript/src/index.js';
import { all } from '../../support/histories.js';

const CONFIG = { configurable: { thread_id: 'thread-1' } };

interface Request {
  url: string;
  headers: Record<string, string>;
  body: string | Uint8Array<ArrayBuffer>;
  signal: AbortSignal;
  at: number;
}

type Step = Response | Error | 'hang' | ((request: Request) => Response);

/** A saver whose requests are answered by the steps, the last one again and again. */
function aSaver(steps: Step[], options: Partial<HttpCheckpointSaverOptions> = {}) {
  const requests: Request[] = [];
  const answer = (url: string | URL | globalThis.Request, init?: RequestInit): Promise<Response> => {
    const request = { ...init, url, at: Date.now() } as unknown as Request;
    requests.push(request);
    const step = steps[Math.min(requests.length, steps.length) - 1] ?? new Error('no step');
    if (step instanceof Error) return Promise.reject(step);
    if (typeof step === 'function') return Promise.resolve(step(request));
    if (step instanceof Response) return Promise.resolve(step.clone());
    return new Promise((_resolve, reject) => {
      const stop = () => {
        reject(request.signal.reason as Error);
      };
      if (request.signal.aborted) stop();
      request.signal.addEventListener('abort', stop);
    });
  };
  const saver = new HttpCheckpointSaver({ baseUrl: 'http://service', fetch: answer, ...options });
  return { saver, requests };
}

function json(value: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return new Response(value === undefined ? null : JSON.stringify(value), { status, headers });
}

const NOTHING = json(null);
const BUSY = json({ type: '/problems/queue-full', title: 'Busy' }, 503, { 'x-request-id': 'r-1' });
const RESET = new TypeError('fetch failed', {
  cause: Object.assign(new Error('reset'), { code: 'ECONNRESET' }),
});

async function errorOf(promise: Promise<unknown>): Promise<CheckpointHttpError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CheckpointHttpError);
  return error as CheckpointHttpError;
}

/** Lets time pass, without waiting, until the promise has settled. */
async function inFakeTime<T>(run: () => Promise<T>): Promise<{ value: T; tookMs: number }> {
  jest.useFakeTimers();
  try {
    const begin = Date.now();
    const settled = new AbortController();
    const promise = run().finally(() => {
      settled.abort();
    });
    promise.catch(() => undefined);
    for (let step = 0; step < 20_000 && !settled.signal.aborted; step++)
      await jest.advanceTimersByTimeAsync(50);
    return { value: await promise, tookMs: Date.now() - begin };
  } finally {
    jest.useRealTimers();
  }
}

afterEach(() => {
  jest.restoreAllMocks();
});

describe('retries', () => {
  it.each([408, 425, 429, 502, 503, 504])('%d is tried again', async (status) => {
    const { saver, requests } = aSaver([json({}, status), NOTHING], { backoffMs: 1 });
    await expect(saver.getTuple(CONFIG)).resolves.toBeUndefined();
    expect(requests).toHaveLength(2);
  });

  it.each([400, 401, 403, 404, 413, 415, 422, 500])('%d is not', async (status) => {
    const { saver, requests } = aSaver([json({ type: '/problems/x' }, status)]);
    const error = await errorOf(saver.getTuple(CONFIG));
    expect(error).toMatchObject({ status, type: '/problems/x', isRetryable: false, attempts: 1 });
    expect(requests).toHaveLength(1);
  });

  it.each([
    ['a broken connection', RESET],
    ['an answer that breaks off', new TypeError('terminated')],
  ])('%s is tried again', async (_name, fault) => {
    const { saver, requests } = aSaver([fault, fault, NOTHING], { backoffMs: 1 });
    await saver.getTuple(CONFIG);
    expect(requests).toHaveLength(3);
  });

  it('a certificate that is wrong is not', async () => {
    const cause = Object.assign(new Error('expired'), { code: 'CERT_HAS_EXPIRED' });
    const { saver, requests } = aSaver([new TypeError('fetch failed', { cause })]);
    expect((await errorOf(saver.getTuple(CONFIG))).message).toContain('CERT_HAS_EXPIRED');
    expect(requests).toHaveLength(1);
  });

  it('pauses grow twofold up to their limit, and are random below it', async () => {
    const random = jest.spyOn(Math, 'random').mockReturnValue(0.999_999);
    const steps = [...Array.from({ length: 8 }, () => BUSY), NOTHING];
    const slow = aSaver(steps, { backoffMs: 200, maxBackoffMs: 5_000 });
    await inFakeTime(() => slow.saver.getTuple(CONFIG));
    expect(pauses(slow.requests)).toEqual([200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
    random.mockReturnValue(0);
    const quick = aSaver(steps);
    const { tookMs } = await inFakeTime(() => quick.saver.getTuple(CONFIG));
    expect(tookMs).toBeLessThan(100);
  });

  function pauses(requests: Request[]): number[] {
    return requests.slice(1).map(({ at }, n) => Math.round((at - requests[n]!.at) / 50) * 50);
  }

  it.each([
    ['seconds', () => '3'],
    ['a date', () => new Date(Date.now() + 3_000).toUTCString()],
  ])('Retry-After as %s is waited for', async (_name, value) => {
    jest.spyOn(Math, 'random').mockReturnValue(0);
    const busy = () => json({}, 503, { 'retry-after': value() });
    const { saver } = aSaver([busy, NOTHING]);
    const { tookMs } = await inFakeTime(() => saver.getTuple(CONFIG));
    expect(tookMs).toBeGreaterThanOrEqual(2_000);
    expect(tookMs).toBeLessThanOrEqual(3_100);
  });

  it('the deadline ends them, with the last answer as the error', async () => {
    const { saver, requests } = aSaver([BUSY], { deadlineMs: 10_000 });
    const { value: error, tookMs } = await inFakeTime(() => errorOf(saver.getTuple(CONFIG)));
    expect(tookMs).toBeLessThanOrEqual(10_000);
    expect(error).toMatchObject({
      status: 503,
      type: '/problems/queue-full',
      requestId: 'r-1',
      isRetryable: true,
    });
    expect(error.attempts).toBe(requests.length);
    expect(requests.length).toBeGreaterThan(3);
  });

  it('a Retry-After beyond the deadline is not waited for', async () => {
    const { saver } = aSaver([json({}, 429, { 'retry-after': '60' })], { deadlineMs: 10_000 });
    const { tookMs } = await inFakeTime(() => errorOf(saver.getTuple(CONFIG)));
    expect(tookMs).toBeLessThan(100);
  });

  it('an attempt without an answer is given up after timeoutMs, the call after deadlineMs', async () => {
    const { saver, requests } = aSaver(['hang'], { timeoutMs: 1_000, deadlineMs: 3_500, backoffMs: 1 });
    const { value: error, tookMs } = await inFakeTime(() => errorOf(saver.deleteThread('t')));
    expect(requests).toHaveLength(4);
    expect(tookMs).toBeGreaterThanOrEqual(3_400);
    expect(tookMs).toBeLessThanOrEqual(3_600);
    expect(error.message).toMatch(
      /delete-thread of thread "t" failed after 4 attempts: no answer from http:\/\/\S+: .*ms/,
    );
    expect(error.cause).toMatchObject({ name: 'TimeoutError' });
  });

  it('there may be no limit to the time', async () => {
    const slow = () => new Promise<Response>((resolve) => setTimeout(resolve, 30, NOTHING.clone()));
    const options = { baseUrl: 'http://x', fetch: slow, timeoutMs: Infinity, deadlineMs: Infinity };
    await expect(new HttpCheckpointSaver(options).getTuple(CONFIG)).resolves.toBeUndefined();
  });

  it('all attempts of a call carry one request id', async () => {
    const { saver, requests } = aSaver([BUSY, RESET, NOTHING], { backoffMs: 1 });
    await saver.getTuple(CONFIG);
    const ids = new Set(requests.map(({ headers }) => headers['x-request-id']));
    expect([...ids]).toEqual([expect.stringMatching(/^[\w-]{36}$/)]);
  });
});

describe('errors', () => {
  it('name the operation, the thread, the problem, every fault and the request', async () => {
    const problem = {
      type: '/problems/invalid-request',
      title: 'Does not fit',
      detail: 'See errors',
      errors: [{ pointer: '#/writes/0/idx', detail: 'must be an integer' }, 'nonsense'],
    };
    const { saver } = aSaver([json(problem, 422, { 'x-request-id': 'r-7' })], {
      headers: { 'x-request-id': 'r-7' },
    });
    const config = { configurable: { thread_id: 'thread-1', checkpoint_id: 'c' } };
    const error = await errorOf(saver.putWrites(config, [['a', 1]], 'task'));
    expect(error.message).toBe(
      'put-writes of thread "thread-1" failed: 422 /problems/invalid-request See errors; ' +
        '#/writes/0/idx must be an integer (request r-7)',
    );
    expect(error).toMatchObject({
      name: 'CheckpointHttpError',
      operation: 'put-writes',
      threadId: 'thread-1',
      faults: [problem.errors[0]],
    });
  });

  it.each([
    ['an answer that is not JSON', new Response('<html>'), 'is not JSON'],
    ['a redirect', new Response(null, { status: 301, headers: { location: '/elsewhere' } }), '/elsewhere'],
  ])('%s is refused', async (_name, response, words) => {
    const { saver, requests } = aSaver([response]);
    expect((await errorOf(saver.getTuple(CONFIG))).message).toContain(words);
    expect(requests).toHaveLength(1);
  });

  it.each([
    [{ baseUrl: 'ftp://x' }, 'http'],
    [{ baseUrl: 'http://user:secret@x' }, 'user'],
    [{ baseUrl: 'http://x?y' }, 'query'],
    [{ baseUrl: 'nonsense' }, 'URL'],
    [{ baseUrl: 'http://x', timeoutMs: 0 }, 'timeoutMs'],
    [{ baseUrl: 'http://x', deadlineMs: Number.NaN }, 'deadlineMs'],
    [{ baseUrl: 'http://x', pageSize: 1001 }, 'pageSize'],
    [{ baseUrl: 'http://x', apiKey: 'a\nb' }, 'x-agent-api-key'],
  ])('the options %j are refused', (options, words) => {
    expect(() => new HttpCheckpointSaver(options)).toThrow(
      // The realm of the test has another TypeError than Node's own URL.
      expect.objectContaining({ name: 'TypeError', message: expect.stringContaining(words) as string }),
    );
  });
});

describe('cancellation', () => {
  it('ends a read at once, also between two attempts', async () => {
    for (const steps of [['hang'], [BUSY]] as Step[][]) {
      const { saver, requests } = aSaver(steps, { backoffMs: 60_000 });
      const stop = new AbortController();
      const read = saver.getTuple({ ...CONFIG, signal: stop.signal });
      setTimeout(() => {
        stop.abort(new Error('enough'));
      }, 20);
      await expect(read).rejects.toThrow('enough');
      expect(requests).toHaveLength(1);
    }
  });

  it('sends nothing when the signal is aborted already', async () => {
    const { saver, requests } = aSaver([NOTHING]);
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(saver.getTuple({ ...CONFIG, signal })).rejects.toThrow('enough');
    await expect(saver.list({ ...CONFIG, signal }).next()).rejects.toThrow('enough');
    expect(requests).toHaveLength(0);
  });

  it('lets a store that is under way finish, for abortGraceMs', async () => {
    const write = { configurable: { thread_id: 't', checkpoint_id: 'c' } };
    const signal = AbortSignal.abort(new Error('enough'));
    const fine = aSaver([BUSY, json(undefined, 204)], { backoffMs: 1 });
    await fine.saver.putWrites({ ...write, signal }, [['a', 1]], 'task');
    expect(fine.requests).toHaveLength(2);
    const stuck = aSaver(['hang'], { abortGraceMs: 50 });
    await expect(stuck.saver.putWrites({ ...write, signal }, [['a', 1]], 'task')).rejects.toThrow('enough');
    const strict = aSaver([NOTHING], { abortGraceMs: 0 });
    await expect(strict.saver.putWrites({ ...write, signal }, [['a', 1]], 'task')).rejects.toThrow('enough');
    expect(strict.requests).toHaveLength(0);
  });

  it('leaves the queue of a busy client', async () => {
    const { saver, requests } = aSaver(['hang'], { maxConcurrency: 1 });
    const [first, second] = [new AbortController(), new AbortController()];
    const running = saver.getTuple({ ...CONFIG, signal: first.signal });
    const waiting = saver.getTuple({ ...CONFIG, signal: second.signal });
    second.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    first.abort(new Error('all'));
    await expect(running).rejects.toThrow('all');
    expect(requests).toHaveLength(1);
  });

  it('leaves no listener behind on a signal that lives on', async () => {
    const { saver } = aSaver([BUSY, NOTHING], { backoffMs: 1 });
    const { signal } = new AbortController();
    const added = jest.spyOn(signal, 'addEventListener');
    const removed = jest.spyOn(signal, 'removeEventListener');
    await saver.getTuple({ ...CONFIG, signal });
    expect(added.mock.calls.length).toBeGreaterThan(0);
    expect(new Set(removed.mock.calls.map(([, listener]) => listener))).toEqual(
      new Set(added.mock.calls.map(([, listener]) => listener)),
    );
  });
});

it('has no more than maxConcurrency requests under way', async () => {
  let underWay = 0;
  let most = 0;
  const slow = async () => {
    most = Math.max(most, ++underWay);
    await new Promise((resolve) => setTimeout(resolve, 5));
    underWay -= 1;
    return NOTHING.clone();
  };
  const saver = new HttpCheckpointSaver({ baseUrl: 'http://x', fetch: slow, maxConcurrency: 3 });
  await Promise.all(Array.from({ length: 20 }, () => saver.getTuple(CONFIG)));
  expect([most, underWay]).toEqual([3, 0]);
});

describe('what is sent', () => {
  it('has the key, the headers and the path behind the base', async () => {
    const { saver, requests } = aSaver([NOTHING], {
      baseUrl: 'https://host/prefix/',
      apiKey: 'secret',
      headers: { 'X-Tenant': 'a', 'X-Request-Id': 'mine' },
    });
    await saver.getTuple(CONFIG);
    expect(requests[0]?.url).toBe('https://host/prefix/checkpoints/get-tuple');
    expect(requests[0]?.headers).toMatchObject({
      'content-type': 'application/json',
      'x-agent-api-key': 'secret',
      'x-tenant': 'a',
      'x-request-id': 'mine',
    });
  });

  const put = (saver: HttpCheckpointSaver, value: unknown) =>
    saver.putWrites({ configurable: { thread_id: 't', checkpoint_id: 'c' } }, [['channel', value]], 'task');

  it('is gzipped from gzipFromBytes on', async () => {
    const { saver, requests } = aSaver([json(undefined, 204)]);
    await put(saver, 'x'.repeat(10_000));
    expect(typeof requests[0]?.body).toBe('string');
    await put(saver, 'x'.repeat(100_000));
    expect(requests[1]?.headers['content-encoding']).toBe('gzip');
    const body = requests[1]!.body as Uint8Array<ArrayBuffer>;
    expect(body.length).toBeLessThan(10_000);
    expect(JSON.parse(gunzipSync(body).toString())).toHaveProperty('writes.0.task_id', 'task');
  });

  it('is plain when gzip would take away no more than Base64 has added', async () => {
    const { saver, requests } = aSaver([json(undefined, 204)]);
    await put(saver, new Uint8Array(randomBytes(80_000)));
    expect(requests[0]?.headers).not.toHaveProperty('content-encoding');
  });

  it('is plain when gzip is off', async () => {
    const { saver, requests } = aSaver([json(undefined, 204)], { gzipFromBytes: Infinity });
    await put(saver, 'x'.repeat(100_000));
    expect(requests[0]?.headers).not.toHaveProperty('content-encoding');
    expect(typeof requests[0]?.body).toBe('string');
  });

  it('goes over connections that are kept', async () => {
    const sockets = new Set<unknown>();
    const server = createServer((request, response) => {
      sockets.add(request.socket);
      void buffer(request).then(() => response.writeHead(200).end('null'));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = server.address() as AddressInfo;
      const saver = new HttpCheckpointSaver({ baseUrl: `http://127.0.0.1:${port}` });
      for (let n = 0; n < 20; n++) await saver.getTuple(CONFIG);
      // fetch may begin a request before the last one's connection is back in its pool.
      expect(sockets.size).toBeLessThanOrEqual(2);
    } finally {
      server.close();
      server.closeAllConnections();
    }
  });

  it('is nothing without a thread', async () => {
    const { saver, requests } = aSaver([NOTHING]);
    expect(await saver.getTuple({ configurable: {} })).toBeUndefined();
    expect(await saver.getDeltaChannelHistory({ config: CONFIG, channels: [] })).toEqual({});
    await saver.deleteForRuns([]);
    await saver.prune([]);
    await saver.putWrites({ configurable: { thread_id: 't', checkpoint_id: 'c' } }, [], 'task');
    expect(requests).toHaveLength(0);
  });
});

describe('list', () => {
  const tuple = (n: number) => ({
    thread_id: 'thread-1',
    checkpoint_ns: '',
    checkpoint_id: `${n}`,
    parent_checkpoint_id: null,
    checkpoint: { v: 4, id: `${n}` },
    metadata: {},
    blobs: [],
    pending_writes: [],
  });
  /** Pages of a thread with that many checkpoints. */
  const pages = (count: number) => (request: Request) => {
    const { limit, cursor } = JSON.parse(request.body as string) as { limit: number; cursor: string | null };
    const from = Number(cursor ?? 0);
    const page = Array.from({ length: Math.min(limit, count - from) }, (_, n) => tuple(from + n));
    return json(page, 200, from + limit < count ? { 'x-next-cursor': `${from + limit}` } : {});
  };
  const limits = (requests: Request[]) =>
    requests.map(({ body }) => (JSON.parse(body as string) as { limit: number }).limit);

  it('fetches pages that grow up to pageSize, to the last', async () => {
    const { saver, requests } = aSaver([pages(100)], { pageSize: 30 });
    const ids = (await all(saver.list(CONFIG))).map(({ checkpoint }) => checkpoint.id);
    expect(ids).toEqual(Array.from({ length: 100 }, (_, n) => `${n}`));
    expect(limits(requests)).toEqual([8, 16, 30, 30, 30]);
  });

  it('stops fetching when the consumer stops', async () => {
    const { saver, requests } = aSaver([pages(100)]);
    for await (const { checkpoint } of saver.list(CONFIG)) if (checkpoint.id === '8') break;
    expect(limits(requests)).toEqual([8, 16]);
  });

  it('never asks for more than the limit', async () => {
    const { saver, requests } = aSaver([pages(100)]);
    expect(await all(saver.list(CONFIG, { limit: 10 }))).toHaveLength(10);
    expect(await all(saver.list(CONFIG, { limit: 0 }))).toHaveLength(0);
    expect(limits(requests)).toEqual([8, 2]);
  });
});

describe('versions', () => {
  it('count up from any version, and never alike', () => {
    const { saver } = aSaver([NOTHING]);
    for (const [current, whole] of [
      [undefined, 1],
      [1, 2],
      [41.999_999_999_999, 42],
    ] as const) {
      const next = Array.from({ length: 100 }, () => saver.getNextVersion(current));
      expect(new Set(next).size).toBe(100);
      for (const version of next)
        expect([Math.floor(version), version > (current ?? 0)]).toEqual([whole, true]);
    }
  });
});

describe('createCheckpointer', () => {
  const NAMES = ['CHECKPOINT_URL', 'CHECKPOINT_API_KEY', 'AGENTEX_BASE_URL', 'AGENT_API_KEY'];
  const before = Object.fromEntries(NAMES.map((name) => [name, process.env[name]]));
  const set = (variables: Record<string, string | undefined>) => {
    for (const name of NAMES) {
      if (variables[name] === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = variables[name];
    }
  };
  afterEach(() => {
    set(before);
  });

  const full = {
    CHECKPOINT_URL: 'http://c',
    CHECKPOINT_API_KEY: 'ck',
    AGENTEX_BASE_URL: 'http://a',
    AGENT_API_KEY: 'ak',
  };
  it.each([
    ['its own variables first', full, {}, 'http://c/', 'ck'],
    ['those of agentex else', { ...full, CHECKPOINT_URL: '' }, {}, 'http://a/', 'ak'],
    [
      'no key that belongs to another address',
      { ...full, CHECKPOINT_API_KEY: undefined },
      {},
      'http://c/',
      undefined,
    ],
    ['no environment with baseUrl', full, { baseUrl: 'http://o' }, 'http://o/', undefined],
    ['the key of the options first', full, { apiKey: 'ok' }, 'http://c/', 'ok'],
  ])('takes %s', async (_name, environment, options, url, key) => {
    set(environment);
    let sent: { url: string; key: string | null } | undefined;
    const checkpointer = createCheckpointer({
      ...options,
      fetch: (target, init) => {
        sent = { url: target as string, key: new Headers(init?.headers).get('x-agent-api-key') };
        return Promise.resolve(NOTHING.clone());
      },
    });
    await checkpointer.getTuple(CONFIG);
    expect(sent).toEqual({ url: `${url}checkpoints/get-tuple`, key: key ?? null });
  });

  it('says which variable is missing', () => {
    set({});
    expect(() => createCheckpointer()).toThrow('CHECKPOINT_URL or AGENTEX_BASE_URL');
  });
});

it.each([0, 1, 2, 3, 0x8000, 0x8001, 100_000])(
  'Base64 of %d bytes is the same in every runtime',
  (length) => {
    const bytes = Uint8Array.from(randomBytes(length));
    const text = toBase64(bytes);
    expect(toBase64WithoutBuffer(bytes)).toBe(text);
    expect(fromBase64(text)).toEqual(bytes);
    expect(fromBase64WithoutBuffer(text)).toEqual(bytes);
  },
);

describe('a call ends at its deadline', () => {
  const LIMITS = { timeoutMs: 200, deadlineMs: 400, backoffMs: 1, onRetry: () => undefined };
  const READ = { configurable: { thread_id: 't' } };
  const never = () => new Promise<never>(() => undefined);
  const ended = async (options: Partial<HttpCheckpointSaverOptions>, signal?: AbortSignal) => {
    const saver = new HttpCheckpointSaver({ baseUrl: 'http://127.0.0.1:9', ...LIMITS, ...options });
    return saver.getTuple({ ...READ, signal }).catch((error: unknown) => error);
  };

  it('though a given fetch looks at no signal', async () => {
    expect(await ended({ fetch: never })).toMatchObject({ name: 'CheckpointHttpError', limit: 'deadlineMs' });
  });

  it('though no key comes, and at once when it is aborted', async () => {
    expect(await ended({ apiKey: never })).toMatchObject({
      limit: 'deadlineMs',
      detail: 'apiKey gave no key',
    });
    const reason = new Error('enough');
    expect(await ended({ apiKey: never, deadlineMs: 60_000 }, AbortSignal.abort(reason))).toBe(reason);
    const abort = new AbortController();
    setTimeout(() => {
      abort.abort(reason);
    }, 20);
    expect(await ended({ apiKey: never, deadlineMs: 60_000 }, abort.signal)).toBe(reason);
  });

  it('though the places are taken by calls that take longer', async () => {
    const saver = new HttpCheckpointSaver({
      ...{ baseUrl: 'http://127.0.0.1:9', ...LIMITS, timeoutMs: 5_000, maxConcurrency: 1 },
      fetch: never,
    });
    const errors = await Promise.all([1, 2].map(() => saver.getTuple(READ).catch((error: unknown) => error)));
    expect(errors).toMatchObject([{ attempts: 1 }, { limit: 'deadlineMs' }]);
  });

  it('though a server changes the protocol', async () => {
    const server = createServer();
    server.on('connection', (socket) => {
      socket.on('data', () => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n');
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const error = await ended({ baseUrl: `http://127.0.0.1:${port}`, timeoutMs: 60_000, deadlineMs: 300 });
    expect(String(error)).toContain('101 Switching Protocols');
    server.close();
    server.closeAllConnections();
  });
});
