import { randomUUID } from 'node:crypto';
import { uuid6 } from '@langchain/langgraph-checkpoint';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { aPut, base64 } from '../../support/builders.js';
import { all } from '../../support/histories.js';

const MIB = 1024 * 1024;
const apps: TestApp[] = [];
afterEach(async () => {
  for (const app of apps.splice(0)) await app.close();
});

/** A service with a thread whose checkpoints, oldest first, have values of these sizes. */
async function aThreadOf(sizes: number[], settings: Record<string, string> = {}) {
  const app = await startApp(settings);
  apps.push(app);
  const thread_id = randomUUID();
  const ids: string[] = [];
  for (const [at, size] of sizes.entries()) {
    const id = uuid6(at);
    const checkpoint = { v: 4, id, channel_versions: { text: at + 1 }, versions_seen: {} };
    const blob = base64(JSON.stringify('x'.repeat(size)));
    const blobs = [{ channel: 'text', version: at + 1, type: 'json', blob }];
    expect((await app.post('put', aPut({ thread_id, checkpoint_id: id, checkpoint, blobs }))).status).toBe(
      200,
    );
    ids.push(id);
  }
  return { app, config: { configurable: { thread_id } }, ids: ids.reverse() };
}

interface Page {
  limit: number;
  status: number;
  length: number;
}

/** A saver, and the pages that it has asked for; `change` may stand in for the answer. */
function aSaver(app: TestApp, change: (limit: number, right: () => Promise<Response>) => Promise<Response>) {
  const pages: Page[] = [];
  const saver = new HttpCheckpointSaver({
    baseUrl: app.url,
    apiKey: app.key,
    fetch: async (url, init) => {
      const { limit } = JSON.parse(init?.body as string) as { limit: number };
      const response = await change(limit, () => fetch(url, init));
      const { length } = await response.clone().text();
      pages.push({ limit, status: response.status, length });
      return response;
    },
  });
  return { saver, pages };
}

const idsOf = async (saver: HttpCheckpointSaver, config: object) =>
  (await all(saver.list(config))).map(({ checkpoint }) => checkpoint.id);

const TOO_LARGE = () =>
  Promise.resolve(Response.json({ type: '/problems/limit-exceeded', detail: 'The answer' }, { status: 413 }));

describe('a history', () => {
  it('is read in pages of some 4 MiB, even where the service would give more', async () => {
    const sizes = [...Array.from({ length: 40 }, () => 10), ...Array.from({ length: 30 }, () => MIB)];
    const { app, config, ids } = await aThreadOf(sizes, { ANSWER_LIMIT_BYTES: String(64 * MIB) });
    const { saver, pages } = aSaver(app, (_limit, right) => right());
    expect(await idsOf(saver, config)).toEqual(ids);
    const [first, ...others] = pages;
    expect(first!.limit).toBe(8);
    for (const { length } of others) expect(length).toBeLessThan(6 * MIB);
    // The small ones at its end are not fetched one by one.
    expect(pages.length).toBeLessThan(18);
  });

  it.each([1, 2, 5])('is read to its end when the service refuses more than %d at once', async (most) => {
    const { app, config, ids } = await aThreadOf(Array.from({ length: 21 }, () => 10));
    const { saver, pages } = aSaver(app, (limit, right) => (limit > most ? TOO_LARGE() : right()));
    expect(await idsOf(saver, config)).toEqual(ids);
    expect(pages.some(({ status }) => status === 413)).toBe(true);
  });

  it.each([
    ['ERR_STRING_TOO_LONG', Object.assign(new Error('too long'), { code: 'ERR_STRING_TOO_LONG' })],
    [
      'ERR_ENCODING_INVALID_ENCODED_DATA',
      Object.assign(new TypeError('invalid'), { code: 'ERR_ENCODING_INVALID_ENCODED_DATA' }),
    ],
    ['a RangeError', new RangeError('Invalid string length')],
  ])('is read to its end when a page is longer than a string can be: %s', async (_name, thrown) => {
    const { app, config, ids } = await aThreadOf(Array.from({ length: 5 }, () => 10));
    const tooLong = (response: Response) => Object.assign(response, { text: () => Promise.reject(thrown) });
    const saver = new HttpCheckpointSaver({
      baseUrl: app.url,
      apiKey: app.key,
      fetch: async (url, init) => {
        const { limit = 0 } = JSON.parse(init?.body as string) as { limit?: number };
        const response = await fetch(url, init);
        return limit > 1 || (url as string).endsWith('get-tuple') ? tooLong(response) : response;
      },
    });
    expect(await idsOf(saver, config)).toEqual(ids);
    await expect(saver.getTuple(config)).rejects.toMatchObject({
      attempts: 1,
      isTooLarge: true,
      isRetryable: false,
      message: expect.stringContaining('larger than a JavaScript string can be') as string,
    });
  });

  it('ends, with the limit by name, at a checkpoint that is too large by itself', async () => {
    const sizes = [10, 10, 40_000, 10, 10, 10];
    const { app, config, ids } = await aThreadOf(sizes, { TUPLE_LIMIT_BYTES: '20000' });
    const { saver, pages } = aSaver(app, (_limit, right) => right());
    const read: string[] = [];
    const reading = (async () => {
      for await (const { checkpoint } of saver.list(config)) read.push(checkpoint.id);
    })();
    await expect(reading).rejects.toMatchObject({
      status: 413,
      message: expect.stringContaining('TUPLE_LIMIT_BYTES') as string,
    });
    expect(read).toEqual(ids.slice(0, 3));
    expect(pages.at(-1)!.limit).toBe(1);
  });
});
