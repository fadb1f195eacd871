import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { HttpCheckpointSaver, createCheckpointer } from '../../../clients/typescript/src/index.js';
import { newKeyText } from '../../../src/auth/domain/api-key.js';
import { startApp, type TestApp } from '../../support/app.js';
import { aThread } from '../../support/builders.js';
import { aKey } from '../../support/keys.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp({ AUTH_MODE: 'keys' });
});
afterAll(() => app.close());

const CHECKPOINT = {
  ...{ v: 4, id: '1f000000-0000-6000-8000-000000000001', ts: '2026-01-01T00:00:00Z' },
  ...{ channel_values: { n: 1 }, channel_versions: { n: 1 }, versions_seen: {} },
};
const METADATA = { source: 'loop' as const, step: 1, parents: {} };

it('the saver sends its key, and says that a wrong one is', async () => {
  const key = await aKey(app.database, { scopes: ['read', 'write'] });
  const config = { configurable: { thread_id: aThread(), checkpoint_ns: '' } };
  const saver = new HttpCheckpointSaver({ baseUrl: app.url, apiKey: key });
  await saver.put(config, CHECKPOINT, METADATA, { n: 1 });
  expect((await saver.getTuple(config))!.checkpoint.channel_values).toEqual({ n: 1 });
  await expect(saver.deleteThread(config.configurable.thread_id)).rejects.toThrow(/403|scope delete/);
  for (const apiKey of [undefined, newKeyText()]) {
    const stranger = new HttpCheckpointSaver({ baseUrl: app.url, apiKey });
    const asked = app.received();
    await expect(stranger.getTuple(config)).rejects.toThrow(/401|valid key/);
    expect(app.received() - asked).toBe(1);
  }
});

describe('a key that a function gives', () => {
  /** A saver that is given the keys one after another, the last one again and again; and how often it asked. */
  function aRotation(...keys: (string | undefined)[]) {
    let asked = 0;
    const apiKey = () => Promise.resolve(keys[Math.min(asked++, keys.length - 1)]);
    const onRetry = (error: Error) => {
      throw error;
    };
    const saver = createCheckpointer({
      baseUrl: app.url,
      apiKey,
      onRetry,
    });
    return { saver, asked: () => asked };
  }
  const config = { configurable: { thread_id: aThread() } };
  const keys: string[] = [];
  beforeAll(async () => {
    for (let n = 0; n < 3; n++) keys.push(await aKey(app.database, { scopes: ['read'] }));
    // The service looks for new keys once a second.
    await delay(2_000);
  });

  it('is read again when the service refuses it, and the call goes on', async () => {
    for (const stale of [newKeyText(), undefined, 'nonsense']) {
      const { saver, asked } = aRotation(stale, keys[0]);
      const received = app.received();
      await expect(saver.getTuple(config)).resolves.toBeUndefined();
      expect([asked(), app.received() - received]).toEqual([2, 2]);
    }
  });

  it.each([
    ['the same', (wrong: string) => [wrong], 1],
    ['another wrong one', (wrong: string) => [wrong, newKeyText(), newKeyText()], 2],
  ])('ends the call when it is %s', async (_name, keysOf, requests) => {
    const { saver, asked } = aRotation(...keysOf(newKeyText()));
    const received = app.received();
    await expect(saver.getTuple(config)).rejects.toMatchObject({
      status: 401,
      attempts: requests,
      message: expect.stringContaining('Check apiKey') as string,
    });
    expect([asked(), app.received() - received]).toEqual([2, requests]);
  });

  it('is read again for the next call, as a token in a file that rotates', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'checkpoint-key-'));
    try {
      const file = join(directory, 'token');
      const saver = new HttpCheckpointSaver({ baseUrl: app.url, apiKey: () => readFileSync(file, 'utf8') });
      for (const key of keys) {
        writeFileSync(file, `${key}\n`);
        await expect(saver.getTuple(config)).resolves.toBeUndefined();
        writeFileSync(file, `${newKeyText()}\n`);
        await expect(saver.getTuple(config)).rejects.toThrow('401');
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('may be one beside an address of the environment, whose key is not sent then', async () => {
    const before = { ...process.env };
    Object.assign(process.env, { CHECKPOINT_URL: app.url, CHECKPOINT_API_KEY: newKeyText() });
    try {
      await expect(createCheckpointer({ apiKey: () => keys[0] }).getTuple(config)).resolves.toBeUndefined();
      await expect(createCheckpointer().getTuple(config)).rejects.toThrow('401');
    } finally {
      for (const name of ['CHECKPOINT_URL', 'CHECKPOINT_API_KEY']) {
        if (before[name] === undefined) Reflect.deleteProperty(process.env, name);
        else process.env[name] = before[name];
      }
    }
  });

  it('ends the call with what the function throws', async () => {
    const gone = new Error('no such file');
    const apiKey = () => Promise.reject(gone);
    await expect(new HttpCheckpointSaver({ baseUrl: app.url, apiKey }).getTuple(config)).rejects.toBe(gone);
  });
});
