import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

describe('delta-channel-history', () => {
  let app: TestApp;
  let thread_id: string;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());
  beforeEach(() => {
    thread_id = aThread();
  });

  const put = (
    checkpoint_id: string,
    parent_checkpoint_id: string | null,
    fields: Record<string, unknown> = {},
  ) => app.post('put', aPut({ thread_id, checkpoint_id, parent_checkpoint_id, ...fields }));
  const write = (checkpoint_id: string, fields: Record<string, unknown>) =>
    app.post(
      'put-writes',
      aPutWrites({ thread_id, checkpoint_id, writes: [aWrite({ channel: 'log', ...fields })] }),
    );
  const history = async (channels: string[], checkpoint_id: string | null = null) =>
    (await app.post('delta-channel-history', { thread_id, checkpoint_id, channels })).json;
  const written = (entry: { writes: { checkpoint_id: string; task_id: string; idx: number }[] }) =>
    entry.writes.map((w) => `${w.checkpoint_id} ${w.task_id} ${w.idx}`);

  it('has nothing where there is no thread, no checkpoint, no parent', async () => {
    expect(await history(['log'])).toEqual({ log: { writes: [] } });
    await put('1', null);
    await write('1', {});
    expect(await history(['log'])).toEqual({ log: { writes: [] } });
    expect(await history(['log'], 'other')).toEqual({ log: { writes: [] } });
    expect(await history([])).toEqual({});
  });

  it('follows the parents, not the time, and leaves the checkpoint itself out', async () => {
    // 1 ← 3 ← 2 ← 5, and 4 as another branch
    for (const [id, parent] of [
      ['1', null],
      ['3', '1'],
      ['2', '3'],
      ['4', '1'],
      ['5', '2'],
    ] as const) {
      await put(id, parent);
      await write(id, {});
    }
    expect(written((await history(['log'])).log)).toEqual(['1 task-1 0', '3 task-1 0', '2 task-1 0']);
    expect(written((await history(['log'], '4')).log)).toEqual(['1 task-1 0']);
  });

  it('orders the writes of a checkpoint by task and index, and gives each whole', async () => {
    await put('1', null);
    await put('2', '1');
    for (const [task_id, idx] of [
      ['b', 0],
      ['a', 1],
      ['a', -1],
      ['B', 0],
    ] as const)
      await write('1', { task_id, idx });
    await write('1', { task_id: 'x', idx: 9, channel: 'other' });
    const { log } = await history(['log']);
    expect(written(log)).toEqual(['1 B 0', '1 a -1', '1 a 1', '1 b 0']);
    expect(log.writes[0]).toEqual({
      checkpoint_id: '1',
      task_id: 'B',
      idx: 0,
      type: 'msgpack',
      blob: base64('write'),
      task_path: '',
    });
  });

  it.each([
    { what: 'a blob', values: {}, blobs: [{ type: 't', blob: 'QQ==' }], seed: { type: 't', blob: 'QQ==' } },
    {
      what: 'a blob beside its marker',
      values: { log: true },
      blobs: [{ type: 't', blob: 'QQ==' }],
      seed: { type: 't', blob: 'QQ==' },
    },
    { what: 'an inline value', values: { log: [1.5] }, blobs: [], seed: { value: [1.5] } },
    { what: 'an inline true', values: { log: true }, blobs: [], seed: { value: true } },
    {
      what: 'an inline value beside an empty blob',
      values: { log: 0 },
      blobs: [{ type: 'empty', blob: null }],
      seed: { value: 0 },
    },
    { what: 'a value with NUL', values: { log: '\0' }, blobs: [], seed: { value: '\0' } },
  ])(
    'stops at the nearest ancestor that stored $what, its writes included',
    async ({ values, blobs, seed }) => {
      await put('1', null, { checkpoint: { channel_values: { log: 'older' } } });
      await put('2', '1', {
        checkpoint: { channel_values: values, channel_versions: { log: 'v' } },
        blobs: blobs.map((blob) => ({ channel: 'log', version: 'v', ...blob })),
      });
      await put('3', '2', { checkpoint: { channel_values: { log: null }, channel_versions: { log: 'w' } } });
      await put('4', '3', { checkpoint: { channel_values: { log: 'the checkpoint itself' } } });
      for (const id of ['1', '2', '3', '4']) await write(id, {});
      const { log } = await history(['log']);
      expect(log.seed).toEqual(seed);
      expect(written(log)).toEqual(['2 task-1 0', '3 task-1 0']);
    },
  );

  it('gives each channel its own depth', async () => {
    await put('1', null, { checkpoint: { channel_values: { deep: 1 } } });
    await put('2', '1', { checkpoint: { channel_values: { near: 2 } } });
    await put('3', '2');
    for (const id of ['1', '2']) {
      await write(id, { channel: 'near', idx: 0 });
      await write(id, { channel: 'deep', idx: 1 });
    }
    const { near, deep } = await history(['near', 'deep', 'near']);
    expect([near.seed, written(near)]).toEqual([{ value: 2 }, ['2 task-1 0']]);
    expect([deep.seed, written(deep)]).toEqual([{ value: 1 }, ['1 task-1 1', '2 task-1 1']]);
  });
});
