import { randomUUID } from 'node:crypto';
import { emptyCheckpoint } from '@langchain/langgraph-checkpoint';
import {
  CheckpointHttpError,
  EncryptedSerializer,
  HttpCheckpointSaver,
  type HttpCheckpointSaverOptions,
} from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { all } from '../../support/histories.js';
import { type Handler, inFrontOf, type Reply } from '../../support/in-front.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const ID = '1f000000-0000-6000-8000-000000000001';
const METADATA = { source: 'input' as const, step: -1, parents: {} };
const configOf = (thread_id: unknown, more: object = {}) => ({ configurable: { thread_id, ...more } });

async function put(saver: HttpCheckpointSaver, thread: unknown, values: Record<string, unknown> = {}) {
  const versions = Object.fromEntries(Object.keys(values).map((name) => [name, 1]));
  const checkpoint = { ...emptyCheckpoint(), channel_values: values, channel_versions: versions };
  return saver.put(configOf(thread), checkpoint, METADATA, versions);
}

/** In front of the service. */
const inFront = <T>(handler: Handler, run: (url: string, sockets: unknown[]) => Promise<T>) =>
  inFrontOf(app.url, handler, run);

function idHeader(id: unknown): Record<string, string> {
  return typeof id === 'string' ? { 'x-request-id': id } : {};
}

async function errorOf(promise: Promise<unknown>): Promise<CheckpointHttpError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(CheckpointHttpError);
  return error as CheckpointHttpError;
}

const anItem = (thread_id: string, checkpoint_ns = '', checkpoint_id = ID) => ({
  ...{ thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id: null, metadata: {} },
  ...{ checkpoint: { v: 4, id: checkpoint_id }, blobs: [], pending_writes: [], pending_sends: [] },
});

describe('an answer that belongs to another request', () => {
  it.each([1, 8])(
    'is never given back, over connections that are one answer behind: %d at once',
    async (many) => {
      const threads = Array.from({ length: 8 }, () => randomUUID());
      const direct = new HttpCheckpointSaver({ baseUrl: app.url });
      for (const thread of threads) await put(direct, thread, { owner: thread });
      const previous = new WeakMap<object, Reply>();
      let wrong = 0;
      const behind: Handler = async (request, _body, right) => {
        const found = previous.get(request.socket);
        const reply = await right();
        previous.set(request.socket, reply);
        if (found !== undefined) wrong += 1;
        return found ?? reply;
      };
      await inFront(behind, async (baseUrl) => {
        const saver = new HttpCheckpointSaver({ baseUrl, backoffMs: 1 });
        for (let round = 0; round < 5; round++) {
          for (let at = 0; at < threads.length; at += many) {
            const some = threads.slice(at, at + many);
            const found = await Promise.all(some.map((thread) => saver.getTuple(configOf(thread))));
            expect(found.map((tuple) => tuple?.checkpoint.channel_values.owner)).toEqual(some);
          }
        }
      });
      expect(wrong).toBeGreaterThan(0);
    },
  );

  const mine = configOf('mine');
  const stored = { ...emptyCheckpoint(), id: ID };
  const calls: [what: string, data: unknown, call: (saver: HttpCheckpointSaver) => Promise<unknown>][] = [
    ['another thread’s checkpoint', anItem('other'), (saver) => saver.getTuple(mine)],
    [
      'another namespace’s',
      anItem('mine', 'b'),
      (saver) => saver.getTuple(configOf('mine', { checkpoint_ns: 'a' })),
    ],
    ['the root’s', anItem('mine'), (saver) => saver.getTuple(configOf('mine', { checkpoint_ns: 'a' }))],
    [
      'another one',
      anItem('mine', '', 'b'),
      (saver) => saver.getTuple(configOf('mine', { checkpoint_id: 'a' })),
    ],
    ['a list', [anItem('mine')], (saver) => saver.getTuple(mine)],
    ['a list with another’s', [anItem('mine'), anItem('other')], (saver) => all(saver.list(mine))],
    [
      'another namespace’s list',
      [anItem('mine', 'b')],
      (saver) => all(saver.list(configOf('mine', { checkpoint_ns: '' }))),
    ],
    ['one checkpoint, no list', anItem('mine'), (saver) => all(saver.list(mine))],
    ['the key of another', anItem('other'), (saver) => saver.put(mine, stored, METADATA, {})],
    ['null for a key', null, (saver) => saver.put(mine, stored, METADATA, {})],
    [
      'channels of another',
      { theirs: { writes: [] } },
      (saver) => saver.getDeltaChannelHistory({ config: mine, channels: ['ours'] }),
    ],
  ];

  it.each(calls)('is refused by what it holds: %s', async (_what, data, call) => {
    for (const echo of [true, false]) {
      // Older services send no id.
      const other: Handler = (request) =>
        Promise.resolve({
          status: 200,
          headers: idHeader(echo ? request.headers['x-request-id'] : undefined),
          body: JSON.stringify(data),
        });
      await inFront(other, async (baseUrl, sockets) => {
        const error = await errorOf(call(new HttpCheckpointSaver({ baseUrl, backoffMs: 1 })));
        expect(error).toMatchObject({ isMismatch: true, threadId: 'mine', attempts: 5, status: undefined });
        expect(error.message).toContain('belongs to another request');
        expect(sockets).toHaveLength(5);
        // The first may have been used twice; behind the answer to the second attempt each is closed.
        expect(new Set(sockets).size).toBeGreaterThanOrEqual(4);
      });
    }
  });

  it.each([200, 204, 400, 401, 404, 422, 500])('is refused by its request id: %d', async (status) => {
    const body = JSON.stringify(status === 200 ? anItem('mine') : { detail: 'of another' });
    const foreign: Handler = () => Promise.resolve({ status, headers: { 'x-request-id': 'another' }, body });
    await inFront(foreign, async (baseUrl, sockets) => {
      const error = await errorOf(new HttpCheckpointSaver({ baseUrl, backoffMs: 1 }).getTuple(mine));
      expect(error).toMatchObject({ isMismatch: true, attempts: 5, isRetryable: true });
      expect(error.message).toContain(`${status} with x-request-id "another"`);
      expect(error.message).not.toContain('of another');
      expect(sockets).toHaveLength(5);
    });
  });

  it.each([200, 404, 503])('is survived when it comes once: %d', async (status) => {
    let asked = 0;
    const once: Handler = (_request, _body, right) => {
      asked += 1;
      if (asked > 1) return right();
      return Promise.resolve({
        status,
        headers: { 'x-request-id': 'another' },
        body: JSON.stringify(anItem('other')),
      });
    };
    await inFront(once, async (baseUrl) => {
      const saver = new HttpCheckpointSaver({ baseUrl, backoffMs: 1 });
      expect(await saver.getTuple(configOf(randomUUID()))).toBeUndefined();
    });
    expect(asked).toBe(2);
  });

  it.each<[string, (sent: string) => Record<string, string>, Partial<HttpCheckpointSaverOptions>]>([
    ['none', () => ({}), {}],
    ['one beside it', (sent) => ({ 'x-request-id': `proxy, ${sent}` }), {}],
    ['another, unchecked', () => ({ 'x-request-id': 'proxy' }), { checkRequestId: false }],
  ])('is not what a proxy has put an id of its own on: %s', async (_name, headersFor, options) => {
    const rewritten: Handler = (request) =>
      Promise.resolve({
        status: 200,
        headers: headersFor(String(request.headers['x-request-id'])),
        body: JSON.stringify(anItem('mine')),
      });
    await inFront(rewritten, async (baseUrl) => {
      const saver = new HttpCheckpointSaver({ baseUrl, backoffMs: 1, ...options });
      expect((await saver.getTuple(mine))?.config.configurable?.thread_id).toBe('mine');
      expect(await errorOf(saver.getTuple(configOf('other')))).toMatchObject({ isMismatch: true });
    });
  });

  it('cannot be known when the id is one that the service replaces, so such an id is refused', () => {
    for (const id of ['a b', 'x'.repeat(129), 'ö', '']) {
      expect(() => new HttpCheckpointSaver({ baseUrl: app.url, headers: { 'X-Request-Id': id } })).toThrow(
        expect.objectContaining({
          name: 'TypeError',
          message: expect.stringContaining('x-request-id') as string,
        }),
      );
    }
  });

  it('does not come from the service, which gives ids back as they are', async () => {
    for (const id of ['mine', randomUUID(), '!~', 'x'.repeat(128)]) {
      const saver = new HttpCheckpointSaver({ baseUrl: app.url, headers: { 'x-request-id': id } });
      expect(await saver.getTuple(configOf(randomUUID()))).toBeUndefined();
      expect((await errorOf(saver.deleteThread('\0'))).requestId).toBe(id);
    }
  });
});

describe('fetch that is patched', () => {
  const init: ((RequestInit & { cache?: string }) | undefined)[] = [];
  beforeEach(() => init.splice(0));

  it('is told to keep nothing', async () => {
    const saver = new HttpCheckpointSaver({
      baseUrl: app.url,
      fetch: (url, options) => {
        init.push(options);
        return fetch(url, options);
      },
    });
    const thread = randomUUID();
    await put(saver, thread);
    await saver.getTuple(configOf(thread));
    await all(saver.list(configOf(thread)));
    await saver.deleteThread(thread);
    expect(init.map((options) => options?.cache)).toEqual(Array.from({ length: 4 }, () => 'no-store'));
  });

  it.each([
    "The 'cache' field on 'RequestInitializerDict' is not implemented.",
    'Unsupported cache mode: no-store',
  ])('may not know how to: %s', async (message) => {
    const saver = new HttpCheckpointSaver({
      baseUrl: app.url,
      fetch: (url, options) => {
        init.push(options);
        if (options !== undefined && 'cache' in options) throw new TypeError(message);
        return fetch(url, options);
      },
    });
    const thread = randomUUID();
    await put(saver, thread);
    expect(await saver.getTuple(configOf(thread))).toBeDefined();
    expect(init.map((options) => options?.cache)).toEqual(['no-store', undefined, undefined]);
  });

  it.each([
    { digest: 'DYNAMIC_SERVER_USAGE' },
    { digest: 'HANGING_PROMISE_REJECTION' },
    { $$typeof: Symbol.for('react.postpone') },
  ])('may throw for its framework, which gets it at once: %j', async (properties) => {
    const thrown = Object.assign(new Error('Dynamic server usage: no-store fetch'), properties);
    let sent = 0;
    const fetch = () => {
      sent += 1;
      return Promise.reject(thrown);
    };
    const saver = new HttpCheckpointSaver({ baseUrl: app.url, fetch, backoffMs: 1, deadlineMs: 2_000 });
    await expect(saver.getTuple(configOf('a'))).rejects.toBe(thrown);
    expect(sent).toBe(1);
  });

  it('gives an answer of yesterday, which is refused', async () => {
    const kept = new Map<string, Promise<Response>>();
    const saver = new HttpCheckpointSaver({
      baseUrl: app.url,
      backoffMs: 1,
      fetch: async (url, options) => {
        const key = JSON.stringify([url, options?.body]);
        if (!kept.has(key)) kept.set(key, fetch(url, options));
        return (await kept.get(key)!).clone();
      },
    });
    const config = configOf(randomUUID());
    await saver.getTuple(config);
    expect(await errorOf(saver.getTuple(config))).toMatchObject({ isMismatch: true });
  });
});

describe('what is no id', () => {
  const NO_IDS: unknown[] = [
    ...[null, '', true, false, Number.NaN, Infinity, 1.5, 2 ** 53, {}, { id: 'a' }, [], ['a'], () => 'a'],
    ...[Symbol('a'), new Date(0), new Uint8Array(1), new String('a')],
  ];
  const stored = { ...emptyCheckpoint(), id: ID };
  const takers: [
    method: string,
    key: string,
    call: (saver: HttpCheckpointSaver, id: unknown) => Promise<unknown>,
  ][] = [
    ['getTuple', 'thread_id', (saver, id) => saver.getTuple(configOf(id))],
    ['list', 'thread_id', (saver, id) => all(saver.list(configOf(id)))],
    ['put', 'thread_id', (saver, id) => saver.put(configOf(id), stored, METADATA, {})],
    [
      'putWrites',
      'thread_id',
      (saver, id) => saver.putWrites(configOf(id, { checkpoint_id: 'a' }), [['c', 1]], 't'),
    ],
    ['deleteThread', 'threadId', (saver, id) => saver.deleteThread(id as never)],
    ['copyThread', 'sourceThreadId', (saver, id) => saver.copyThread(id as never, 'b')],
    ['copyThread', 'targetThreadId', (saver, id) => saver.copyThread('a', id as never)],
    ['prune', 'threadIds[1]', (saver, id) => saver.prune(['a', id as never], { strategy: 'delete' })],
    ['deleteForRuns', 'runIds[1]', (saver, id) => saver.deleteForRuns(['a', id as never])],
    [
      'getDeltaChannelHistory',
      'thread_id',
      (saver, id) => saver.getDeltaChannelHistory({ config: configOf(id), channels: ['a'] }),
    ],
    [
      'put',
      'checkpoint.id',
      (saver, id) => saver.put(configOf('a'), { ...stored, id: id as never }, METADATA, {}),
    ],
    [
      'putWrites',
      'checkpoint_id',
      (saver, id) => saver.putWrites(configOf('a', { checkpoint_id: id }), [['c', 1]], 't'),
    ],
  ];

  it.each(takers)('is refused by %s, which names %s', async (method, key, call) => {
    let sent = 0;
    const fetch = () => Promise.reject(new Error(`sent ${++sent}`));
    const saver = new HttpCheckpointSaver({ baseUrl: app.url, fetch, deadlineMs: 1 });
    const reads = ['getTuple', 'list', 'getDeltaChannelHistory'].includes(method);
    for (const id of reads ? NO_IDS : [...NO_IDS, undefined]) {
      await expect(call(saver, id)).rejects.toMatchObject({
        name: 'TypeError',
        message: expect.stringContaining(key) as string,
      });
    }
    expect(sent).toBe(0);
  });

  it('is refused as a filter, too, since without it more would be shown', async () => {
    let sent = 0;
    const fetch = () => Promise.reject(new Error(`sent ${++sent}`));
    const saver = new HttpCheckpointSaver({ baseUrl: app.url, fetch, deadlineMs: 1 });
    for (const id of NO_IDS.filter((id) => id !== null && id !== '')) {
      for (const name of ['checkpoint_id', 'checkpoint_ns']) {
        const config = configOf('a', { [name]: id });
        await expect(saver.getTuple(config)).rejects.toMatchObject({ name: 'TypeError' });
        await expect(all(saver.list(config))).rejects.toMatchObject({ name: 'TypeError' });
      }
      const before = { configurable: { checkpoint_id: id } };
      await expect(all(saver.list(configOf('a'), { before }))).rejects.toMatchObject({ name: 'TypeError' });
    }
    for (const ids of ['thread', undefined, null, {}, new Set(['a'])]) {
      await expect(saver.prune(ids as never)).rejects.toMatchObject({ name: 'TypeError' });
      await expect(saver.deleteForRuns(ids as never)).rejects.toMatchObject({ name: 'TypeError' });
    }
    expect(sent).toBe(0);
  });

  it.each([randomUUID(), 'undefined', '[object Object]', ' ', 7, 0, -1, 2 ** 53 - 1, 2n ** 70n])(
    'does not include %p',
    async (id) => {
      const saver = new HttpCheckpointSaver({ baseUrl: app.url });
      const config = await put(saver, id);
      expect(config.configurable?.thread_id).toBe(id);
      for (const same of [config, configOf(id), configOf(String(id))]) {
        expect((await saver.getTuple(same))?.checkpoint.id).toBe(config.configurable?.checkpoint_id);
      }
      expect(await all(saver.list(configOf(id)))).toHaveLength(1);
      await saver.deleteThread(id);
      expect(await saver.getTuple(configOf(String(id)))).toBeUndefined();
    },
  );
});

describe('a value that JSON has no text for', () => {
  class Silent {
    toJSON() {
      return undefined;
    }
  }
  const values = { f: () => 1, s: Symbol('s'), silent: new Silent(), n: 1 };

  it.each([
    ['plain', undefined],
    ['encrypted', new EncryptedSerializer({ key: new Uint8Array(32) })],
  ])('is no value, and the thread stays readable: %s', async (_name, serde) => {
    const saver = new HttpCheckpointSaver({ baseUrl: app.url, serde });
    const thread = randomUUID();
    const config = await put(saver, thread, values);
    await saver.putWrites(config, Object.entries(values), 'task');
    const tuple = await saver.getTuple(config);
    expect(tuple?.checkpoint.channel_values).toEqual({ n: 1 });
    expect(tuple?.pendingWrites).toEqual([
      ['task', 'f', null],
      ['task', 's', null],
      ['task', 'silent', undefined],
      ['task', 'n', 1],
    ]);
  });

  it('does not keep a thread that it has spoiled before from going on', async () => {
    const thread_id = randomUUID();
    const blobs = ['f', 'n'].map((channel) => ({
      channel,
      version: '1',
      type: 'json',
      blob: channel === 'f' ? '' : 'MQ==',
    }));
    const checkpoint = { v: 4, id: ID, channel_versions: { f: '1', n: '1' } };
    await app.post('put', { thread_id, checkpoint_id: ID, checkpoint, blobs });
    const writes = [{ task_id: 't', idx: 0, channel: 'f', type: 'json', blob: '' }];
    await app.post('put-writes', { thread_id, checkpoint_id: ID, writes });
    const tuple = await new HttpCheckpointSaver({ baseUrl: app.url }).getTuple(configOf(thread_id));
    expect(tuple?.checkpoint.channel_values).toEqual({ n: 1 });
    expect(tuple?.pendingWrites).toEqual([['t', 'f', null]]);
  });
});

it('asks a function for the key before each call', async () => {
  const keys: (string | null)[] = [];
  let key: string | undefined = 'first';
  const saver = new HttpCheckpointSaver({
    baseUrl: app.url,
    apiKey: () => Promise.resolve(key),
    fetch: (url, options) => {
      keys.push(new Headers(options?.headers).get('x-agent-api-key'));
      return fetch(url, options);
    },
  });
  for (key of ['first', 'second', undefined]) await saver.getTuple(configOf(randomUUID()));
  expect(keys).toEqual(['first', 'second', null]);
});
