import { startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, base64 } from './support/builders.js';

describe('a part that include names twice', () => {
  it.each([
    ['blobs', 'blobs'],
    ['pending_writes', 'blobs', 'pending_writes'],
    Array.from({ length: 5000 }, () => 'blobs'),
  ])('is answered once: %s, %s …', async (...include) => {
    const app = await startApp();
    const thread_id = aThread();
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('a') }];
    await app.post('put', aPut({ thread_id, checkpoint: { channel_versions: { a: '1' } }, blobs }));
    await app.post('put-writes', aPutWrites({ thread_id }));
    const { status, json } = await app.post('get-tuple', { thread_id, include });
    expect([status, json.blobs.length]).toEqual([200, 1]);
    expect((await app.post('list', { thread_id, include })).json).toEqual([json]);
    await app.close();
  });
});
