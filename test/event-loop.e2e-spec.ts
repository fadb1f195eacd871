import { type TestApp, startApp } from './support/app.js';

const MIB = 1024 * 1024;
/** Each of these takes a fraction of a second; what they stand for took minutes, or days. */
const WIDE_MS = 25_000;

describe.each(['true', 'false'])(
  'no request keeps the others waiting by itself, FAST_PATH=%s',
  (FAST_PATH) => {
    let app: TestApp;
    beforeAll(async () => {
      app = await startApp({ FAST_PATH });
    });
    afterAll(() => app.close());

    const post = async (operation: string, body: string) => {
      const began = performance.now();
      const { status, text, json } = await app.post(operation, body);
      expect(performance.now() - began).toBeLessThan(WIDE_MS);
      return { status, length: text.length, json };
    };
    const rows = (row: string, count = 10_000) => Array(count).fill(row).join();

    it('with 300,000 marks beside a character that jsonb refuses', async () => {
      const marks = Array.from({ length: 300_000 }, (_, n) => `\ue000${n}:`).join('');
      const document = `{"a":"\\u0000","b":"${marks}"}`;
      const put = await post('put', `{"thread_id":"marks","checkpoint_id":"1","checkpoint":${document}}`);
      expect(put.status).toBe(200);
      const { json } = await post('get-tuple', '{"thread_id":"marks"}');
      expect(json.checkpoint).toEqual({ a: '\0', b: marks });
      expect(
        (await post('list', `{"filter_metadata":{"a":"\\u0000","b":"${marks.slice(0, 30_000)}"}}`)).status,
      ).toBe(200);
    });

    it.each([
      ['put', `{"thread_id":"t","checkpoint_id":"1","checkpoint":{},"blobs":[${rows('{}')}]}`, 30_000],
      ['put-writes', `{"thread_id":"t","checkpoint_id":"1","writes":[${rows('{}')}]}`, 40_000],
      [
        'put-writes',
        `{"writes":[${rows('{"task_id":"","idx":"x","channel":1,"blob":"?","type":1}')}]}`,
        50_002,
      ],
    ])(
      'with 10,000 faulty rows (%s), of whose faults it tells the first hundred',
      async (operation, body, total) => {
        const { status, length, json } = await post(operation, body);
        expect([status, json.errors.length]).toEqual([422, 100]);
        expect(json.detail).toBe(`The request has ${total} faults, of which 100 are told`);
        expect(length).toBeLessThan(20_000);
      },
    );

    it('with 10,000 rows that are right', async () => {
      const writes = Array.from(
        { length: 10_000 },
        (_, idx) => `{"task_id":"t","idx":${idx},"channel":"c","blob":"QQ=="}`,
      );
      const put = await post(
        'put-writes',
        `{"thread_id":"rows","checkpoint_id":"1","writes":[${writes.join()}]}`,
      );
      expect(put.status).toBe(204);
    });

    it.each([
      ['16 MiB of fields that nobody asked for', `{"thread_id":"t"${',"":"\\n"'.repeat(2 * MIB)}}`, 413],
      ['rows of such fields', `{"thread_id":"t","x":[${rows(`{${'"":"\\n",'.repeat(200)}"":0}`)}]}`, 413],
      ['160,000 of them', `{"thread_id":"t"${',"":"\\n"'.repeat(160_000)}}`, 200],
      ['a field of 30 MiB of values', `{"thread_id":"t","x":[[[[${'{},'.repeat(10 * MIB)}0]]]]}`, 413],
      ['a field of 30 MiB of text', `{"thread_id":"t","x":"${'\\n'.repeat(15 * MIB)}"}`, 200],
      ['a field of 30 MiB of digits', `{"thread_id":"t","x":${'9'.repeat(30 * MIB)}}`, 200],
      ['30 MiB of spaces', `{"thread_id":"t"${' '.repeat(30 * MIB)}}`, 200],
      ['an id of 30 MiB', `{"thread_id":"${'x'.repeat(30 * MIB)}"}`, 422],
      ['an id of 30 MiB of digits', `{"thread_id":${'9'.repeat(30 * MIB)}}`, 422],
    ])('with %s', async (_, body, status) => {
      expect((await post('get-tuple', body)).status).toBe(status);
    });

    it('with a long id that 10,000 rows share', async () => {
      const id = 'x'.repeat(30 * MIB);
      const writes = rows('{"task_id":"t","idx":0,"channel":"c","blob":""}');
      const body = `{"thread_id":"${id}","checkpoint_id":"1","writes":[${writes}]}`;
      expect((await post('put-writes', body)).status).toBe(422);
    });

    it('with lists of long ids', async () => {
      const long = `"${'x'.repeat(64 * 1024)}"`;
      const body = (name: string, items: string) => `{"${name}":[${items}],"strategy":"keep_latest"}`;
      expect((await post('delete-for-runs', body('run_ids', rows(long, 500)))).status).toBe(204);
      expect((await post('prune', body('thread_ids', rows(long, 500)))).status).toBe(204);
      const longer = `"${'x'.repeat(64 * 1024 + 1)}"`;
      expect((await post('delete-for-runs', body('run_ids', longer))).status).toBe(422);
      expect((await post('list', `{"cursor":${longer}}`)).status).toBe(422);
    });
  },
);
