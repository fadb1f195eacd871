import { randomUUID } from 'node:crypto';
import fc from 'fast-check';
import { numericText } from '../src/checkpoints/dto/numeric-text.js';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aWrite } from './support/builders.js';
import { type Exact, canonical, parseExact } from './support/exact.js';

/** Any UTF-16 text: control characters, lone surrogates, the start of the mark that stands for them in jsonb. */
const anyText = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom('\0', '\ud83d', '\ude00', '\ue000', '0', ':', 'a', '"', '\\') },
      {
        weight: 5,
        arbitrary: fc.nat(0xffff).map((code) => String.fromCharCode(code)),
      },
    ),
    { maxLength: 12 },
  )
  .map((units) => units.join(''));

/** A text as JSON may write it: each character as it is, or escaped. */
const stringLiteral = fc
  .tuple(anyText, fc.boolean())
  .map(([text, escaped]) =>
    escaped
      ? `"${[...Array(text.length).keys()].map((at) => `\\u${text.charCodeAt(at).toString(16).padStart(4, '0')}`).join('')}"`
      : JSON.stringify(text),
  );

const numberLiteral = fc
  .record({
    sign: fc.constantFrom('', '-'),
    whole: fc.oneof(fc.constant('0'), fc.bigInt({ min: 1n, max: 10n ** 30n }).map(String)),
    fraction: fc.oneof(fc.constant(''), fc.stringMatching(/^\.[0-9]{1,25}$/)),
    exponent: fc.oneof(
      fc.constant(''),
      fc.integer({ min: -40, max: 40 }).map((n) => `e${n}`),
      fc.constant('E+2'),
    ),
  })
  .map(({ sign, whole, fraction, exponent }) => sign + whole + fraction + exponent);

const space = fc.constantFrom('', ' ', '\n\t', '\r');

const { object: jsonObject } = fc.letrec<{ value: string; object: string; array: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    fc.constantFrom('null', 'true', 'false'),
    numberLiteral,
    stringLiteral,
    tie('array'),
    tie('object'),
  ),
  array: fc
    .tuple(fc.array(tie('value'), { maxLength: 5 }), space)
    .map(([items, gap]) => `[${gap}${items.join(`${gap},`)}]`),
  object: fc
    .tuple(
      fc.array(
        fc.tuple(
          fc.oneof(stringLiteral, fc.constantFrom('"__proto__"', '"constructor"', '"toString"', '""')),
          tie('value'),
        ),
        { maxLength: 5 },
      ),
      space,
    )
    .map(([members, gap]) => `{${members.map(([key, value]) => `${gap}${key}:${gap}${value}`).join(',')}}`),
}));

const id = fc
  .oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 30 }),
    fc.constantFrom("'; --", '\\', '{}', '"', ' ', '\u2028'),
  )
  .map((text) => text.replaceAll('\0', '·'));
const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array).toString('base64'));

describe('whatever is put', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  const asJsonb = (document: Exact) => canonical(document, (literal) => numericText(literal) ?? literal);

  it('any JSON document comes back with the same meaning, its numbers as jsonb prints them', async () => {
    await fc.assert(
      fc.asyncProperty(jsonObject, jsonObject, async (checkpoint, metadata) => {
        const thread_id = randomUUID();
        const put = await app.post(
          'put',
          `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":${checkpoint},"metadata":${metadata}}`,
        );
        expect(put.status).toBe(200);
        const tuple = parseExact((await app.post('get-tuple', { thread_id })).text) as Map<string, Exact>;
        expect(canonical(tuple.get('checkpoint') ?? null)).toBe(asJsonb(parseExact(checkpoint)));
        expect(canonical(tuple.get('metadata') ?? null)).toBe(asJsonb(parseExact(metadata)));
      }),
      { numRuns: 300 },
    );
  });

  it('numbers are printed as Postgres prints them', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(numberLiteral, { minLength: 1, maxLength: 50 }), async (literals) => {
        const [row] = await app.database.sql<{ printed: string[] }>(
          'select array(select jsonb_array_elements_text($1::jsonb)) as printed',
          [`[${literals.join()}]`],
        );
        expect(literals.map(numericText)).toEqual(row?.printed);
      }),
      { numRuns: 50 },
    );
  });

  it('any ids, names and bytes come back as they went in', async () => {
    const blob = fc.record({ channel: id, version: id, type: id, blob: fc.option(bytes) });
    const write = fc.record({
      task_id: id,
      idx: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      channel: id,
      type: fc.option(id),
      blob: bytes,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.record({ thread_id: id, checkpoint_ns: fc.oneof(id, fc.constant('')), checkpoint_id: id }),
        fc.uniqueArray(blob, { maxLength: 6, selector: (b) => b.channel }),
        fc.uniqueArray(write, { maxLength: 6, selector: (w) => `${w.task_id} ${w.idx}` }),
        async (key, blobs, writes) => {
          const thread_id = `${randomUUID()}${key.thread_id}`;
          const checkpoint = {
            channel_versions: Object.fromEntries(blobs.map((b) => [b.channel, b.version])),
          };
          await app.post('put', aPut({ ...key, thread_id, checkpoint, blobs }));
          await app.post('put-writes', { ...key, thread_id, writes });
          const tuple = (await app.post('get-tuple', { ...key, thread_id })).json;
          expect(tuple).toMatchObject({ ...key, thread_id });
          const byChannel = (a: { channel: string }, b: { channel: string }) =>
            a.channel < b.channel ? -1 : 1;
          expect(tuple.blobs.toSorted(byChannel)).toEqual(blobs.toSorted(byChannel));
          const inOrder = writes.toSorted(
            (a, b) => Buffer.compare(Buffer.from(a.task_id), Buffer.from(b.task_id)) || a.idx - b.idx,
          );
          expect(tuple.pending_writes).toEqual(inOrder);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('repeated, or twice at once, it ends in the same rows', async () => {
    const few = fc.constantFrom('a', 'b', 'c');
    const blobs = fc.array(fc.record({ channel: few, version: few, type: few, blob: bytes }), {
      maxLength: 5,
    });
    const writes = fc.array(
      fc.tuple(few, fc.nat(2), bytes).map(([task_id, idx, blob]) => aWrite({ task_id, idx, blob })),
      {
        maxLength: 6,
      },
    );
    const rows = (thread_id: string) =>
      app.database.sql(
        `select (select json_agg(c) from checkpoints c where thread_id = $1) as c,
                (select json_agg(b order by channel, version) from checkpoint_blobs b where thread_id = $1) as b,
                (select json_agg(w order by task_id, idx) from checkpoint_writes w where thread_id = $1) as w`,
        [thread_id],
      );
    await fc.assert(
      fc.asyncProperty(blobs, writes, fc.boolean(), async (someBlobs, someWrites, upsert) => {
        const thread_id = randomUUID();
        const send = async () => {
          const put = await app.post('put', aPut({ thread_id, blobs: someBlobs }));
          const put2 = await app.post('put-writes', {
            thread_id,
            checkpoint_id: 'checkpoint-1',
            writes: someWrites,
            upsert,
          });
          expect([put.status, put2.status]).toEqual([200, 204]);
        };
        await send();
        const once = await rows(thread_id);
        await Promise.all([send(), send()]);
        expect(await rows(thread_id)).toEqual(once);
      }),
      { numRuns: 60 },
    );
  });
});
