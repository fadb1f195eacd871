import { type Answer, type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

const KIB = 1024;
const PAGE_BYTES = 200 * KIB;
const TUPLE_BYTES = 600 * KIB;
const INCLUDE = ['blobs', 'pending_writes', 'pending_sends'];

/** As the table of bounds has it: of blobs their bytes, of documents their text. */
describe.each(['true', 'false'])('an answer is bounded in bytes, FAST_PATH=%s', (FAST_PATH) => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({
      FAST_PATH,
      ANSWER_LIMIT_BYTES: String(PAGE_BYTES),
      TUPLE_LIMIT_BYTES: String(TUPLE_BYTES),
    });
  });
  afterAll(() => app.close());

  /** Every page, by following the cursor; each answer as it came. */
  async function pages(body: object): Promise<Answer[]> {
    const found: Answer[] = [];
    for (let cursor: string | undefined; found.length === 0 || cursor !== undefined;) {
      const answer = await app.post('list', { ...body, ...(cursor !== undefined && { cursor }) });
      expect(answer.status).toBe(200);
      expect(answer.json.length).toBeGreaterThan(0);
      found.push(answer);
      cursor = answer.headers['x-next-cursor'];
    }
    return found;
  }
  const idsOf = (answers: Answer[]) =>
    answers.flatMap(({ json }) => (json as { checkpoint_id: string }[]).map((item) => item.checkpoint_id));
  const id = (n: number) => String(n).padStart(4, '0');
  const descending = (count: number) => Array.from({ length: count }, (_, n) => id(count - 1 - n));

  /** Checkpoints that all name one blob, stored once, of so many bytes. */
  async function sharing(bytes: number, count: number): Promise<string> {
    const thread_id = aThread();
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(Buffer.alloc(bytes, 7)) }];
    for (let n = 0; n < count; n += 1) {
      const checkpoint = { channel_versions: { a: '1' } };
      await app.post(
        'put',
        aPut({ thread_id, checkpoint_id: id(n), checkpoint, blobs: n === 0 ? blobs : [] }),
      );
    }
    return thread_id;
  }

  it.each([10, 60, 500])(
    'pages end before blobs of %i KiB fill more, one checkpoint at least',
    async (kib) => {
      const thread_id = await sharing(kib * KIB, 12);
      const found = await pages({ thread_id, include: ['blobs'] });
      expect(idsOf(found)).toEqual(descending(12));
      const perPage = Math.max(1, Math.floor(PAGE_BYTES / (kib * KIB)));
      expect(found.length).toBeGreaterThanOrEqual(Math.ceil(12 / perPage));
      expect(found.length).toBeLessThanOrEqual(Math.ceil(12 / Math.max(1, perPage - 1)));
      for (const { json } of found) {
        for (const { blobs } of json) expect(Buffer.from(blobs[0].blob, 'base64')).toHaveLength(kib * KIB);
      }
    },
  );

  it.each([{}, { checkpoint_ns: '' }, { limit: 1000 }, { limit: 7 }, { filter_metadata: { keep: 1 } }])(
    'pages end before documents fill more, asked with %j',
    async (more) => {
      const thread_id = aThread();
      // Compressed in the table to some hundred bytes.
      const checkpoint = { channel_values: { a: 'x'.repeat(30 * KIB) } };
      for (let n = 0; n < 20; n += 1) {
        await app.post(
          'put',
          aPut({
            thread_id,
            checkpoint_id: id(n),
            checkpoint,
            metadata: { keep: 1, b: 'y'.repeat(10 * KIB) },
          }),
        );
      }
      const found = await pages({ thread_id, ...more });
      expect(idsOf(found)).toEqual(descending(20));
      for (const { text } of found) expect(text.length).toBeLessThanOrEqual(PAGE_BYTES + 20 * KIB);
      expect(found.length).toBeLessThanOrEqual(6);
      expect(found[0]?.json[0].checkpoint).toEqual(checkpoint);
    },
  );

  it('counts writes, sends and names', async () => {
    const thread_id = aThread();
    for (let n = 0; n < 8; n += 1) {
      const parent_checkpoint_id = n === 0 ? null : id(n - 1);
      await app.post('put', aPut({ thread_id, checkpoint_id: id(n), parent_checkpoint_id }));
      const writes = [
        aWrite({ blob: base64(Buffer.alloc(40 * KIB)) }),
        aWrite({ idx: 1, channel: '__pregel_tasks', blob: base64(Buffer.alloc(40 * KIB)) }),
        aWrite({ idx: 2, type: 't'.repeat(40 * KIB) }),
      ];
      await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: id(n), writes }));
    }
    const found = await pages({ thread_id, include: INCLUDE });
    expect(idsOf(found)).toEqual(descending(8));
    expect(found.length).toBe(8);
    for (const { json } of found) expect(json[0].pending_writes).toHaveLength(3);
    expect(found.map(({ json }) => json[0].pending_sends.length)).toEqual([1, 1, 1, 1, 1, 1, 1, 0]);
  });

  it('gives checkpoints of any sizes exactly once, each whole', async () => {
    const thread_id = aThread();
    const sizes = Array.from({ length: 40 }, (_, n) => (n * 7919) % 120);
    const expected = [];
    for (const [n, kib] of sizes.entries()) {
      const blob = base64(Buffer.alloc(kib * KIB, n));
      const blobs = [{ channel: 'a', version: id(n), type: 't', blob }];
      const checkpoint = {
        channel_versions: { a: id(n) },
        channel_values: { b: 'x'.repeat((n % 3) * 9 * KIB) },
      };
      await app.post('put', aPut({ thread_id, checkpoint_id: id(n), checkpoint, blobs }));
      const writes = [aWrite({ blob: base64(Buffer.alloc((n % 5) * 4 * KIB, n)) })];
      await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: id(n), writes }));
      expected.unshift({ checkpoint, blobs, writes });
    }
    for (const limit of [3, 10, 100]) {
      const found = (await pages({ thread_id, limit, include: INCLUDE })).flatMap(({ json }) => json);
      expect(
        found.map(({ checkpoint, blobs, pending_writes }) => ({
          checkpoint,
          blobs,
          writes: pending_writes.map((write: object) => ({ ...write, task_path: undefined })),
        })),
      ).toEqual(expected);
    }
  });

  it.each([{}, { include: ['blobs'] }])(
    'reads no further than to the end of the page, whatever the size of documents, with %j',
    async (more) => {
      const thread_id = aThread();
      // The oldest cannot be printed: Postgres has no room for a text of 1 GiB.
      await app.database.sql(
        `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
         select $1, '', n::text, case n when 0 then (select jsonb_build_object('a', jsonb_agg(1e131071)) from generate_series(1, 8300))
                                        else jsonb_build_object('a', repeat('x', 500000)) end, '{}'
           from generate_series(0, 9) as n`,
        [thread_id],
      );
      const first = await app.post('list', { thread_id, ...more });
      expect([first.status, first.json.length]).toEqual([200, 1]);
      expect(first.headers['x-next-cursor']).toBeDefined();
    },
  );

  it('several lists at once are each answered as if alone', async () => {
    const threads = [await sharing(60 * KIB, 5), await sharing(90 * KIB, 5), await sharing(10, 5)];
    const lists = Array.from({ length: 30 }, (_, n) => ({
      thread_id: threads[n % 3],
      include: ['blobs'],
      limit: 5,
    }));
    const alone = await Promise.all(
      threads.map((thread_id) => pages({ thread_id, include: ['blobs'], limit: 5 })),
    );
    const found = await Promise.all(lists.map((body) => app.post('list', body)));
    for (const [n, { status, text }] of found.entries()) {
      expect([status, text]).toEqual([200, alone[n % 3]?.[0]?.text]);
    }
  });

  it.each(['blobs', 'pending_writes'])(
    'refuses a checkpoint whose %s are over TUPLE_LIMIT_BYTES',
    async (part) => {
      const thread_id = aThread();
      const channels = Array.from({ length: 7 }, (_, n) => `c${n}`);
      const channel_versions = Object.fromEntries(channels.map((channel) => [channel, '1']));
      const blob = base64(Buffer.alloc(90 * KIB, 1));
      for (const [idx, channel] of channels.entries()) {
        const blobs = [{ channel, version: '1', type: 't', blob }];
        const body = { thread_id, checkpoint: { channel_versions }, blobs: part === 'blobs' ? blobs : [] };
        await app.post('put', aPut(body));
        if (part !== 'blobs') {
          await app.post(
            'put-writes',
            aPutWrites({ thread_id, checkpoint_id: 'checkpoint-1', writes: [aWrite({ idx, blob })] }),
          );
        }
      }
      const refused = {
        status: 413,
        json: {
          type: '/problems/limit-exceeded',
          detail: `What belongs to the checkpoint is over the limit TUPLE_LIMIT_BYTES = ${TUPLE_BYTES}`,
        },
      };
      const other = await sharing(10, 1);
      const answers = await Promise.all(
        [thread_id, other, thread_id, other].map((thread) => app.post('get-tuple', { thread_id: thread })),
      );
      expect(answers.map(({ status }) => status)).toEqual([413, 200, 413, 200]);
      expect(answers[0]).toMatchObject(refused);
      expect(await app.post('list', { thread_id, include: [part] })).toMatchObject(refused);
      expect((await app.post('get-tuple', { thread_id, include: [] })).status).toBe(200);
      expect((await app.post('list', { thread_id })).status).toBe(200);
    },
  );

  it('refuses a document over TUPLE_LIMIT_BYTES, and reads on by the same connections', async () => {
    const thread_id = aThread();
    await app.database.sql(
      `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
       values ($1, '', '1', jsonb_build_object('a', repeat('x', 4000000)), '{}')`,
      [thread_id],
    );
    for (let n = 0; n < 12; n += 1) {
      expect((await app.post('get-tuple', { thread_id })).status).toBe(413);
      expect((await app.post('list', { thread_id })).status).toBe(413);
      expect((await app.post('get-tuple', { thread_id: aThread() })).status).toBe(200);
    }
  });
});

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
