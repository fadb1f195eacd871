import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { emptyCheckpoint } from '@langchain/langgraph-checkpoint';
import {
  CheckpointHttpError,
  HttpCheckpointSaver,
  type HttpCheckpointSaverOptions,
} from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { type Handler, inFrontOf, type Reply } from '../../support/in-front.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

/** The first two go alone, and what comes meanwhile goes together as the third request. */
const LONE = 2;
const TOGETHER = 8;
const ALL = LONE + TOGETHER;
const METADATA = { source: 'input' as const, step: -1, parents: {} };
const configOf = (thread_id: string, more: object = {}) => ({ configurable: { thread_id, ...more } });
const numbers = (count: number) => Array.from({ length: count }, (_, number) => number);
const VALUES = numbers(ALL);

async function put(saver: HttpCheckpointSaver, thread: string, said: unknown, signal?: AbortSignal) {
  const versions = { said: 1 };
  const checkpoint = { ...emptyCheckpoint(), channel_values: { said }, channel_versions: versions };
  return saver.put({ ...configOf(thread), signal }, checkpoint, METADATA, versions);
}

const putAll = (saver: HttpCheckpointSaver, thread: string, count = ALL) =>
  Promise.allSettled(numbers(count).map((number) => put(saver, `${thread}-${number}`, number)));

const stored = (saver: HttpCheckpointSaver, thread: string) =>
  Promise.all(
    VALUES.map(
      async (number) =>
        (await saver.getTuple(configOf(`${thread}-${number}`)))?.checkpoint.channel_values.said,
    ),
  );

const statuses = (outcomes: PromiseSettledResult<unknown>[]) => outcomes.map(({ status }) => status);
const FULFILLED = numbers(ALL).map(() => 'fulfilled');

interface Asked {
  operation: string;
  id: string;
  key: string | undefined;
  /** Of a batch. */
  threads: string[];
}

/** What becomes of a request: its id, and what the service replies. */
type Fault = (right: () => Promise<Reply>, id: string) => Promise<Reply>;

/** A saver whose requests go by the handler, which knows the number of the request from 1 on. */
async function seen(
  run: (saver: HttpCheckpointSaver, asked: Asked[]) => Promise<unknown>,
  handler: (number: number, right: () => Promise<Reply>, id: string) => Promise<Reply> = (_, right) =>
    right(),
  options: Partial<HttpCheckpointSaverOptions> = {},
): Promise<Asked[]> {
  const asked: Asked[] = [];
  const front: Handler = (request, body, right) => {
    const operation = String(request.url).replace('/checkpoints/', '');
    const id = String(request.headers['x-request-id']);
    const key = request.headers['x-agent-api-key'] as string | undefined;
    const lines = operation === 'batch' ? body.split('\n').filter((_, at) => at % 2 === 1) : [];
    const threads = lines.map((line) => (JSON.parse(line) as { thread_id: string }).thread_id);
    asked.push({ operation, id, key, threads });
    return handler(asked.length, right, id);
  };
  await inFrontOf(app.url, front, (baseUrl) =>
    run(new HttpCheckpointSaver({ baseUrl, backoffMs: 1, onRetry: () => undefined, ...options }), asked),
  );
  return asked;
}

const operations = (asked: Asked[]) => asked.map(({ operation }) => operation);

describe('stores that come while others are under way', () => {
  it('go together, in their order', async () => {
    const thread = randomUUID();
    const asked = await seen(async (saver) => {
      const outcomes = await putAll(saver, thread);
      expect(statuses(outcomes)).toEqual(FULFILLED);
      const found = await Promise.all(
        VALUES.map((number) => saver.getTuple(configOf(`${thread}-${number}`))),
      );
      expect(found.map((tuple) => tuple?.checkpoint.channel_values.said)).toEqual(VALUES);
      await Promise.all(found.map((tuple) => saver.putWrites(tuple?.config ?? {}, [['said', 1]], 'task')));
      const last = await saver.getTuple(configOf(`${thread}-${ALL - 1}`));
      expect(last?.pendingWrites).toEqual([['task', 'said', 1]]);
    });
    expect(operations(asked).filter((name) => name !== 'get-tuple')).toEqual(
      ['put', 'put', 'batch', 'put-writes', 'put-writes', 'batch'], // prettier-ignore
    );
    expect(asked[2]?.threads).toEqual(VALUES.slice(LONE).map((number) => `${thread}-${number}`));
  });

  it('go alone when there is one agent, when they are long, and without `batch`', async () => {
    const oneAgent = await seen(async (saver) => {
      for (let at = 0; at < 3; at++) await putAll(saver, randomUUID(), LONE);
    });
    expect(operations(oneAgent)).toEqual(Array(3 * LONE).fill('put'));
    const long = await seen((saver) =>
      Promise.all(VALUES.map(() => put(saver, randomUUID(), 'x'.repeat(40_000)))),
    );
    expect(operations(long)).toEqual(Array(ALL).fill('put'));
    const off = await seen((saver) => putAll(saver, randomUUID()), undefined, { batch: false });
    expect(operations(off)).toEqual(Array(ALL).fill('put'));
  });

  it('have their own results', async () => {
    const thread = randomUUID();
    let outcomes: PromiseSettledResult<unknown>[] = [];
    const asked = await seen(async (saver) => {
      outcomes = await Promise.allSettled(
        VALUES.map((number) => put(saver, number === 5 ? 'x'.repeat(5000) : `${thread}-${number}`, number)),
      );
      expect(await stored(saver, thread)).toEqual(
        VALUES.map((number) => (number === 5 ? undefined : number)),
      );
    });
    expect(statuses(outcomes)).toEqual(FULFILLED.map((word, at) => (at === 5 ? 'rejected' : word)));
    const error = (outcomes[5] as PromiseRejectedResult).reason as CheckpointHttpError;
    expect(error).toBeInstanceOf(CheckpointHttpError);
    expect(error).toMatchObject({ status: 422, operation: 'put', threadId: 'x'.repeat(5000) });
    expect(error.message).toContain('key longer than');
    // What finds it in the log of the service.
    expect(error.requestId).toBe(asked[2]?.id);
  });

  const json =
    (status: number, body: unknown): Fault =>
    (_right, id) =>
      Promise.resolve({ status, headers: { 'x-request-id': id }, body: JSON.stringify(body) });
  const edited =
    (edit: (results: unknown[]) => unknown): Fault =>
    async (right) => {
      const { body, ...rest } = await right();
      return { ...rest, body: JSON.stringify(edit((JSON.parse(body) as { results: unknown[] }).results)) };
    };
  const faults: [name: string, fault: Fault][] = [
    ['503', json(503, {})],
    ['400', json(400, {})],
    ['404', json(404, {})],
    ['413', json(413, {})],
    [
      'a proxy’s page',
      (_right, id) => Promise.resolve({ status: 200, headers: { 'x-request-id': id }, body: '<p>' }),
    ],
    ['no content', json(204, null)],
    [
      'another request’s answer',
      () => json(200, { results: [] })(() => Promise.reject(new Error()), 'other'),
    ],
    ['an answer that is lost', async (right) => ({ ...(await right()), status: 0 })],
    ['too few results', edited((results) => ({ results: results.slice(1) }))],
    ['mixed-up results', edited((results) => ({ results: results.toReversed() }))],
    ['results that are none', edited((results) => ({ results: results.map(() => null) }))],
    ['no results', edited(() => [1])],
    ['one that failed', edited((results) => ({ results: [{ status: 503 }, ...results.slice(1)] }))],
  ];

  it.each(faults)('are repeated alone after %s', async (_name, fault) => {
    const thread = randomUUID();
    const asked = await seen(
      async (saver) => {
        expect(statuses(await putAll(saver, thread))).toEqual(FULFILLED);
        expect(await stored(saver, thread)).toEqual(VALUES);
      },
      (number, right, id) => (number === LONE + 1 ? fault(right, id) : right()),
    );
    const stores = operations(asked).filter((name) => name !== 'get-tuple');
    expect(stores.slice(0, 3)).toEqual(['put', 'put', 'batch']);
    expect(new Set(stores.slice(3))).toEqual(new Set(['put']));
  });

  it('are not sent together again to a service that knows no batch', async () => {
    const asked = await seen(
      async (saver) => {
        await putAll(saver, randomUUID());
        await putAll(saver, randomUUID());
      },
      (number, right, id) => (number === LONE + 1 ? json(404, {})(right, id) : right()),
    );
    expect(operations(asked).filter((name) => name === 'batch')).toHaveLength(1);
  });

  it('are held up by one that is stuck for a moment only', async () => {
    const began = Date.now();
    await seen(
      async (saver) => {
        const stuck = [put(saver, randomUUID(), 0), put(saver, randomUUID(), 0)];
        expect(statuses(await putAll(saver, randomUUID()))).toEqual(FULFILLED);
        await Promise.allSettled(stuck);
      },
      (number, right) => (number <= LONE + 1 ? new Promise<never>(() => undefined) : right()),
      { timeoutMs: 6_000, deadlineMs: 6_000 },
    );
    expect(Date.now() - began).toBeGreaterThan(5_500);
  }, 60_000);

  it('go with those of the same key alone', async () => {
    const keys = 'a b b a a c c c d d'.split(' ');
    let at = 0;
    const asked = await seen((saver) => putAll(saver, 't'), undefined, { apiKey: () => keys[at++] });
    const together = asked
      .filter(({ operation }) => operation === 'batch')
      .map(({ key, threads }) => [key, threads.join()]);
    expect(together.toSorted()).toEqual([
      ['a', 't-3,t-4'],
      ['c', 't-5,t-6,t-7'],
      ['d', 't-8,t-9'],
    ]);
  });

  it('that are aborted disturb no other', async () => {
    const thread = randomUUID();
    const [inQueue, underWay] = [new AbortController(), new AbortController()];
    const signals = [...Array<undefined>(ALL - 2), underWay.signal, inQueue.signal];
    const asked = await seen(
      async (saver) => {
        const puts = Promise.allSettled(
          signals.map((signal, number) => put(saver, `${thread}-${number}`, number, signal)),
        );
        await delay(0);
        inQueue.abort();
        expect(statuses(await puts)).toEqual([...FULFILLED.slice(2), 'rejected', 'rejected']);
        expect(await stored(saver, thread)).toEqual([...VALUES.slice(0, -1), undefined]);
      },
      async (number, right) => {
        const reply = await right();
        if (number <= LONE) await delay(50);
        if (number === LONE + 1) underWay.abort();
        if (number === LONE + 1) await delay(50);
        return reply;
      },
      { abortGraceMs: 0 },
    );
    expect(asked[2]?.threads).toHaveLength(TOGETHER - 1);
  });
});
