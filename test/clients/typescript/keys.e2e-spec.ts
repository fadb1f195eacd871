import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
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
