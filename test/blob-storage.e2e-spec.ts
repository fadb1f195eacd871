import { randomBytes, randomUUID } from 'node:crypto';
import { type Answer, startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

let app: TestApp;

const MODES = [
  ['in memory', {}],
  ['without memory', { DELTA_MEMORY_BYTES: '0' }],
  ['without the fast path', { FAST_PATH: 'false' }],
] as const;

/** A list of messages behind a header that counts, as msgpack has it. */
class Conversation {
  readonly thread_id = aThread();
  readonly values: Buffer[] = [];
  private bytes = Buffer.alloc(0);

  constructor(private readonly messageBytes = 3000) {}

  next(): Buffer {
    this.bytes = Buffer.concat(
      [this.bytes, randomBytes(this.messageBytes / 2).toString('hex') as never].map((part) =>
        Buffer.from(part),
      ),
    );
    const head = Buffer.alloc(5);
    head[0] = 0xdd;
    head.writeUInt32BE(this.values.length + 1, 1);
    const value = Buffer.concat([head, this.bytes]);
    this.values.push(value);
    return value;
  }
}

const put = (of: {
  thread_id: string;
  n: number;
  value: Buffer;
  parent?: number | null;
  channel?: string;
  ns?: string;
  blobs?: unknown[];
}): Promise<Answer> => {
  const { thread_id, n, value, parent = n > 1 ? n - 1 : null, channel = 'messages', ns = '' } = of;
  return app.post(
    'put',
    aPut({
      thread_id,
      checkpoint_ns: ns,
      checkpoint_id: idOf(n),
      parent_checkpoint_id: parent === null ? null : idOf(parent),
      checkpoint: { v: 4, id: idOf(n), channel_values: {}, channel_versions: { [channel]: `${n}` } },
      blobs: [{ channel, version: `${n}`, type: 'msgpack', blob: base64(value) }, ...(of.blobs ?? [])],
    }),
  );
};

const idOf = (n: number) => String(n).padStart(6, '0');

async function valueOf(thread_id: string, n: number, ns = ''): Promise<{ type: string; blob: string }> {
  const { json } = await app.post('get-tuple', { thread_id, checkpoint_ns: ns, checkpoint_id: idOf(n) });
  return { type: json.blobs[0].type, blob: json.blobs[0].blob };
}

async function expectValues(
  thread_id: string,
  values: Map<number, Buffer> | Buffer[],
  ns = '',
): Promise<void> {
  const entries = values instanceof Map ? values : new Map(values.map((value, at) => [at + 1, value]));
  for (const [n, value] of entries) {
    expect(await valueOf(thread_id, n, ns)).toEqual({ type: 'msgpack', blob: base64(value) });
  }
}

const places = (thread_id: string) =>
  app.database.sql<{ version: string; type: string; bytes: number }>(
    `select version, type, length(blob) as bytes from checkpoint_blobs where thread_id = $1 order by version::int`,
    [thread_id],
  );
const records = (thread_id: string) =>
  app.database.sql<{ log: string; at: number; bytes: number }>(
    `select log, at, length(delta) as bytes from checkpoint_deltas where thread_id = $1 order by log, at`,
    [thread_id],
  );

afterEach(() => app.close());

describe.each(MODES)('BLOB_STORAGE=delta %s', (_, settings) => {
  const start = () => startApp({ BLOB_STORAGE: 'delta', ...settings });

  it('stores of a value that grows what is new, and answers each version as it came', async () => {
    app = await start();
    const conversation = new Conversation();
    const { thread_id } = conversation;
    for (let n = 1; n <= 12; n += 1) {
      expect((await put({ thread_id, n, value: conversation.next() })).status).toBe(200);
    }
    await expectValues(thread_id, conversation.values);
    const stored = await places(thread_id);
    // The first stands where it always did; from the second on there is a log.
    expect(stored.map(({ type }) => type)).toEqual(['msgpack', ...Array(11).fill('delta+msgpack')]);
    expect(new Set(stored.slice(1).map(({ bytes }) => bytes))).toEqual(new Set([21]));
    const log = await records(thread_id);
    expect(log.map(({ at }) => at)).toEqual(Array.from({ length: 11 }, (_, at) => at));
    expect(Math.max(...log.slice(1).map(({ bytes }) => bytes))).toBeLessThan(3100);
    const { json } = await app.post('list', { thread_id, include: ['blobs'] });
    expect(json.map((tuple: { blobs: { blob: string }[] }) => tuple.blobs[0]?.blob)).toEqual(
      conversation.values.toReversed().map(base64),
    );
  });

  it('goes on from any checkpoint, and repeats change nothing', async () => {
    app = await start();
    const conversation = new Conversation();
    const { thread_id } = conversation;
    for (let n = 1; n <= 4; n += 1) await put({ thread_id, n, value: conversation.next() });
    const values = new Map(conversation.values.map((value, at) => [at + 1, value]));
    // A fork of the third, one of that fork, and each put once more.
    for (const [n, parent] of [
      [10, 3],
      [11, 10],
      [12, 11],
      [13, 2],
    ] as const) {
      const value = Buffer.concat([values.get(parent) as Buffer, randomBytes(700)]);
      values.set(n, value);
      for (let time = 0; time < 2; time += 1) {
        expect((await put({ thread_id, n, value, parent })).status).toBe(200);
      }
    }
    for (const n of [1, 2, 3, 4]) await put({ thread_id, n, value: values.get(n) as Buffer });
    await expectValues(thread_id, values);
  });

  it('keeps a value that has nothing in common, is small, empty or edited in the middle', async () => {
    app = await start();
    const thread_id = aThread();
    const text = Buffer.from(Array.from({ length: 200 }, (_, n) => `line ${n} ${randomUUID()}\n`).join(''));
    const edited = Buffer.concat([text.subarray(0, 5000), Buffer.from('another'), text.subarray(5100)]);
    const values = [text, edited, edited, randomBytes(9000), Buffer.alloc(0), Buffer.from('small'), text];
    for (const [at, value] of values.entries()) {
      expect((await put({ thread_id, n: at + 1, value })).status).toBe(200);
    }
    await expectValues(thread_id, values);
    const stored = await places(thread_id);
    expect(stored.map(({ type }) => type)).toEqual([
      ...['msgpack', 'delta+msgpack', 'delta+msgpack', 'msgpack', 'msgpack', 'msgpack', 'msgpack'],
    ]);
  });

  it('tells values apart whose channel and version read alike together', async () => {
    app = await start();
    const thread_id = aThread();
    const blobs = [
      { channel: 'a b', version: '1', blob: randomBytes(20_000) },
      { channel: 'b', version: '1 a', blob: randomBytes(20_000) },
    ];
    const stored = await app.post(
      'put',
      aPut({
        thread_id,
        checkpoint: { v: 4, channel_values: {}, channel_versions: { 'a b': '1', b: '1 a' } },
        blobs: blobs.map((blob) => ({ ...blob, type: 'msgpack', blob: base64(blob.blob) })),
      }),
    );
    expect(stored.status).toBe(200);
    const { json } = await app.post('get-tuple', { thread_id });
    const found = new Map(
      json.blobs.map((one: { channel: string; blob: string }) => [one.channel, one.blob]),
    );
    for (const { channel, blob } of blobs) expect(found.get(channel)).toBe(base64(blob));
  });

  it('stores writes that contain a value of their thread by it', async () => {
    app = await start();
    const conversation = new Conversation(8000);
    const { thread_id } = conversation;
    for (let n = 1; n <= 4; n += 1) await put({ thread_id, n, value: conversation.next() });
    const send = Buffer.concat([Buffer.from('Send('), conversation.values[3] as Buffer, Buffer.from(')')]);
    const key = { thread_id, checkpoint_id: idOf(4) };
    const blobs = [send, randomBytes(5000), Buffer.from('small')];
    const writes = blobs.map((blob, idx) => aWrite({ idx, channel: '__pregel_tasks', blob: base64(blob) }));
    expect((await app.post('put-writes', aPutWrites({ ...key, writes }))).status).toBe(204);
    const stored = await app.database.sql<{ type: string }>(
      'select type from checkpoint_writes where thread_id = $1 order by idx',
      [thread_id],
    );
    expect(stored.map(({ type }) => type)).toEqual(['delta+msgpack', 'msgpack', 'msgpack']);
    const { json } = await app.post('get-tuple', key);
    expect(json.pending_writes.map(({ type, blob }: { type: string; blob: string }) => [type, blob])).toEqual(
      blobs.map((blob) => ['msgpack', base64(blob)]),
    );
    const sends = await app.post(
      'put',
      aPut({ thread_id, checkpoint_id: idOf(5), parent_checkpoint_id: idOf(4) }),
    );
    expect(sends.status).toBe(200);
    const { json: child } = await app.post('get-tuple', { thread_id, include: ['pending_sends'] });
    expect(child.pending_sends.map(({ blob }: { blob: string }) => blob)).toEqual(blobs.map(base64));
  });

  it('begins a log at once for what is large, so that what holds it later costs little', async () => {
    app = await start();
    const thread_id = aThread();
    const image = randomBytes(40_000);
    expect((await put({ thread_id, n: 1, channel: '__start__', value: image })).status).toBe(200);
    const blobs = [Buffer.concat([Buffer.from('['), image, Buffer.from(']')]), image];
    const writes = blobs.map((blob, idx) => aWrite({ idx, blob: base64(blob) }));
    await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: idOf(1), writes }));
    expect((await put({ thread_id, n: 2, value: image })).status).toBe(200);
    await expectValues(thread_id, [image, image]);
    const { json } = await app.post('get-tuple', { thread_id, checkpoint_id: idOf(1) });
    expect(json.pending_writes.map(({ blob }: { blob: string }) => blob)).toEqual(blobs.map(base64));
    const [{ bytes }] = (await app.database.sql<{ bytes: string }>(
      `select (select sum(length(delta)) from checkpoint_deltas where thread_id = $1)
            + (select sum(length(blob)) from checkpoint_blobs where thread_id = $1)
            + (select sum(length(blob)) from checkpoint_writes where thread_id = $1) as bytes`,
      [thread_id],
    )) as [{ bytes: string }];
    expect(Number(bytes)).toBeLessThan(41_000);
  });

  it('copies, thins out and deletes what it stored', async () => {
    app = await start();
    const conversation = new Conversation();
    const { thread_id, values } = conversation;
    for (let n = 1; n <= 6; n += 1) await put({ thread_id, n, value: conversation.next() });
    const target = aThread();
    const copy = () => app.post('copy-thread', { source_thread_id: thread_id, target_thread_id: target });
    expect((await copy()).status).toBe(204);
    // The copy goes on by itself, and takes what the source got since; nothing of either is lost.
    const own = Buffer.concat([values[5] as Buffer, randomBytes(3000)]);
    expect((await put({ thread_id: target, n: 100, parent: 6, value: own })).status).toBe(200);
    await put({ thread_id, n: 7, value: conversation.next() });
    expect((await copy()).status).toBe(204);
    const all = new Map(values.map((value, at) => [at + 1, value]));
    await expectValues(target, new Map([...all, [100, own]]));
    await expectValues(thread_id, all);
    expect((await app.post('prune', { thread_ids: [thread_id], strategy: 'keep_latest' })).status).toBe(204);
    await expectValues(thread_id, new Map([[7, values[6] as Buffer]]));
    await put({ thread_id, n: 8, value: conversation.next() });
    await expectValues(thread_id, new Map([[8, conversation.values[7] as Buffer]]));
    await app.post('delete-thread', { thread_id });
    expect(await records(thread_id)).toEqual([]);
    await expectValues(target, new Map([...all, [100, own]]));
    await app.post('prune', { thread_ids: [target], strategy: 'delete' });
    expect(await records(target)).toEqual([]);
  });

  it('stores the value whole when the log that it would go on in is gone, or has gone on', async () => {
    app = await start();
    const other = await startApp({ BLOB_STORAGE: 'delta' }, app.database);
    try {
      const conversation = new Conversation();
      const { thread_id } = conversation;
      for (let n = 1; n <= 3; n += 1) await put({ thread_id, n, value: conversation.next() });
      // Another instance goes on from the third.
      const theirs = Buffer.concat([conversation.values[2] as Buffer, randomBytes(900)]);
      const here = app;
      app = other;
      expect((await put({ thread_id, n: 50, parent: 3, value: theirs })).status).toBe(200);
      app = here;
      await put({ thread_id, n: 4, value: conversation.next() });
      await expectValues(
        thread_id,
        new Map([...conversation.values.map((value, at) => [at + 1, value] as const), [50, theirs]]),
      );
      // And deletes the thread, of which this one still has the values in memory.
      await other.post('delete-thread', { thread_id });
      expect((await put({ thread_id, n: 5, value: conversation.next() })).status).toBe(200);
      await expectValues(thread_id, new Map([[5, conversation.values[4] as Buffer]]));
    } finally {
      await other.close();
    }
  });
});

describe('whatever BLOB_STORAGE is', () => {
  it('reads what was stored with the other one', async () => {
    app = await startApp({ BLOB_STORAGE: 'delta' });
    const whole = await startApp({}, app.database);
    const conversation = new Conversation();
    const { thread_id } = conversation;
    const delta = app;
    for (let n = 1; n <= 9; n += 1) {
      app = n % 4 === 0 ? whole : delta;
      await put({ thread_id, n, value: conversation.next() });
    }
    for (app of [whole, delta]) await expectValues(thread_id, conversation.values);
    app = delta;
    await whole.close();
  });

  it('refuses types of values that are its own', async () => {
    app = await startApp();
    const blob = { channel: 'c', version: '1', type: 'delta+msgpack', blob: base64('x'.repeat(21)) };
    const refused = await app.post('put', aPut({ blobs: [blob] }));
    expect([refused.status, refused.json.errors[0].pointer]).toEqual([422, '#/blobs/0/type']);
    const writes = await app.post('put-writes', aPutWrites({ writes: [aWrite({ type: 'delta+' })] }));
    expect([writes.status, writes.json.errors[0].pointer]).toEqual([422, '#/writes/0/type']);
  });

  it('answers 500, and never other bytes, when a record was changed', async () => {
    app = await startApp({ BLOB_STORAGE: 'delta' });
    const conversation = new Conversation();
    const { thread_id } = conversation;
    for (let n = 1; n <= 3; n += 1) await put({ thread_id, n, value: conversation.next() });
    await app.database.sql(
      'update checkpoint_deltas set delta = set_byte(delta, length(delta) - 1, 255 - get_byte(delta, length(delta) - 1)) where thread_id = $1',
      [thread_id],
    );
    const reader = await startApp({}, app.database);
    const read = await reader.post('get-tuple', { thread_id });
    await reader.close();
    expect(read.status).toBe(500);
  });

  it('lets nobody store a place without its record', async () => {
    app = await startApp();
    const insert = app.database.sql(
      `insert into checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
       values ('t', '', 'c', '1', 'delta+x', decode(repeat('01', 21), 'hex'))`,
    );
    await expect(insert).rejects.toMatchObject({ code: '23503' });
  });
});
