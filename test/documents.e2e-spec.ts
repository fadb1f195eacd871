import { readFileSync } from 'node:fs';
import { brotliCompressSync, constants } from 'node:zlib';
import { jest } from '@jest/globals';
import fc from 'fast-check';
import { scanJson } from '../src/http/exact-json/json-scanner.js';
import { loadService, startApp, type TestApp } from './support/app.js';
import { aThread } from './support/builders.js';

const NODES = 1000;
const BYTES = 100_000;
const ROWS = 50;
const MIB = 1024 * 1024;

/** A number whose exponent is of any size, and whose digits are few or many. */
const number = fc
  .record({
    sign: fc.constantFrom('', '-'),
    whole: fc.oneof(
      fc.constantFrom('0', '1', '9', '10', '12345', '9999'),
      fc.integer({ min: 130_000, max: 132_000 }).map((digits) => '7'.repeat(digits)),
      fc.integer({ min: 1, max: 2000 }).map((digits) => `1${'0'.repeat(digits)}`),
    ),
    fraction: fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom('', '.0', '.5', '.000', '.0001', '.10') },
      fc.integer({ min: 16_370, max: 16_390 }).map((digits) => `.${'3'.repeat(digits)}`),
    ),
    exponent: fc.oneof(
      { weight: 2, arbitrary: fc.constant('') },
      fc.integer({ min: -400, max: 400 }).map((n) => `e${n}`),
      fc.integer({ min: 990, max: 1010 }).map((n) => `E+${n}`),
      fc.integer({ min: -1010, max: -990 }).map((n) => `e${n}`),
      fc.integer({ min: -17_000, max: -16_000 }).map((n) => `e${n}`),
      fc.integer({ min: 131_000, max: 132_000 }).map((n) => `e${n}`),
      fc.constantFrom(
        'e00',
        'e-0',
        'e+7',
        'e1073741822',
        'e1073741824',
        'e-1073741824',
        'e99999999999999999999',
      ),
    ),
  })
  .map(({ sign, whole, fraction, exponent }) => sign + whole + fraction + exponent);

describe('a document', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({
      DOCUMENT_NODES_LIMIT: String(NODES),
      DOCUMENT_LIMIT_BYTES: String(BYTES),
      ROWS_LIMIT: String(ROWS),
    });
  });
  afterAll(() => app.close());

  const put = async (checkpoint: string, metadata = '{}', thread_id = aThread()) => {
    const { status, json } = await app.post(
      'put',
      `{"thread_id":"${thread_id}","checkpoint_id":"1","checkpoint":${checkpoint},"metadata":${metadata}}`,
    );
    return { status, type: json.type, detail: json.detail, errors: json.errors };
  };
  const limited = (setting: string, limit: number) => ({
    status: 413,
    type: '/problems/limit-exceeded',
    detail: expect.stringContaining(`${setting} = ${limit}`),
  });
  const unstorable = (member: string, detail: RegExp) => ({
    status: 422,
    type: '/problems/unstorable-document',
    detail: expect.stringMatching(detail),
    errors: [{ pointer: `#/${member}`, detail: expect.stringMatching(detail) }],
  });
  const zeros = (count: number) => Array(count).fill('0').join();

  it('is refused for a number when jsonb refuses it, or prints it by over 1,000 digits longer', async () => {
    await fc.assert(
      fc.asyncProperty(number, async (literal) => {
        const printed = await app.database
          .sql<{ length: number }>('select octet_length(($1::jsonb)::text) as length', [literal])
          .then(
            ([row]) => row?.length ?? 0,
            () => null,
          );
        const { fault } = scanJson(literal, 0, { countedMember: '', maxNodes: 1 });
        if (printed === null) expect(fault).toMatch(/digits before the point, or/);
        // The sign of a zero is not printed; of the added digits none is counted twice for it.
        else if (printed - literal.length > 1001) expect(fault).toMatch(/adds more than 1000/);
        else if (printed - literal.length < 999) expect(fault).toBeNull();
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    '1.7976931348623157e308',
    '-5e-324',
    '1e1000',
    '9'.repeat(4300),
    `0.${'3'.repeat(16_383)}`,
    '0e99999',
  ])('gives the number %.30s back, all its digits written out', async (literal) => {
    const thread_id = aThread();
    expect(await put(`{"n":${literal}}`, '{}', thread_id)).toMatchObject({ status: 200 });
    const [row] = await app.database.sql<{ n: string }>(`select ($1::jsonb)::text as n`, [literal]);
    expect((await app.post('get-tuple', { thread_id })).text).toContain(`"checkpoint":{"n": ${row?.n}}`);
  });

  it.each(['1e131071', '[1e-16383]', '1E+99999', '-1e2000', '1e999999999', '{"deep":[[{"n":1e5000}]]}'])(
    'with %s is refused before Postgres, which would write out all the digits at each read',
    async (value) => {
      const merge = jest.spyOn((await loadService()).Database.prototype, 'merge');
      const document = `{"n":${value}}`;
      expect(await put(document)).toEqual(unstorable('checkpoint', /holds a number/));
      expect(await put('{}', document)).toEqual(unstorable('metadata', /holds a number/));
      const list = await app.post('list', `{"filter_metadata":${document}}`);
      expect(list.json).toMatchObject(unstorable('filter_metadata', /holds a number/));
      expect(merge).not.toHaveBeenCalled();
      merge.mockRestore();
    },
  );

  it('is never over some sixteen times as long when it comes back', async () => {
    const thread_id = aThread();
    const numbers = (literal: string, count: number) => `{"x":[${Array(count).fill(literal).join()}]}`;
    for (const [literal, count] of [
      ['1e308', 200],
      ['5e-324', 190],
      ['1e999', 60],
    ] as const) {
      const document = numbers(literal, count);
      expect(await put(document, '{}', thread_id)).toMatchObject({ status: 200 });
      const { text } = await app.post('get-tuple', { thread_id });
      expect(text.length).toBeLessThan(16 * document.length + 70_000);
    }
    expect(await put(numbers('1e308', 900))).toEqual(unstorable('checkpoint', /16 times/));
  });

  it('may be nested as deep as its values allow', async () => {
    const nested = (levels: number) => `${'{"a":'.repeat(levels)}0${'}'.repeat(levels)}`;
    const thread_id = aThread();
    expect(await put(nested(998), '{}', thread_id)).toMatchObject({ status: 200 });
    expect((await app.post('get-tuple', { thread_id })).text).toContain(nested(998).replaceAll(':', ': '));
    expect(await put(nested(1001))).toMatchObject({ status: 413 }); // by DOCUMENT_NODES_LIMIT
  });

  it('may hold DOCUMENT_NODES_LIMIT values, together with the other one of the request', async () => {
    expect(await put(`{"a":[${zeros(NODES - 3)}]}`)).toMatchObject({ status: 200 });
    const over = limited('DOCUMENT_NODES_LIMIT', NODES);
    expect(await put(`{"a":[${zeros(NODES - 2)}]}`)).toMatchObject(over);
    expect(await put('{}', `{"a":[${zeros(NODES - 2)}]}`)).toMatchObject(over);
    expect(await put(`{"a":[${zeros(NODES / 2)}]}`, `{"a":[${zeros(NODES / 2)}]}`)).toMatchObject(over);
    // What jsonb cannot hold takes a replacement for each.
    expect(await put(`{"a":"${'\\u0000'.repeat(NODES - 3)}"}`)).toMatchObject({ status: 200 });
    expect(await put(`{"a":"${'\\ud800'.repeat(NODES)}"}`)).toMatchObject(over);
    const list = await app.post('list', `{"filter_metadata":{"a":[${zeros(NODES)}]}}`);
    expect(list.json).toMatchObject(over);
  });

  it('may have DOCUMENT_LIMIT_BYTES, together with the other one of the request', async () => {
    const text = (bytes: number) => `{"a":"${'x'.repeat(bytes - 8)}"}`;
    expect(await put(text(BYTES - 2))).toMatchObject({ status: 200 });
    const over = limited('DOCUMENT_LIMIT_BYTES', BYTES);
    expect(await put(text(BYTES - 1))).toMatchObject(over);
    expect(await put(text(BYTES / 2), text(BYTES / 2 + 1))).toMatchObject(over);
    expect(await put(`{"a":"${'é'.repeat(BYTES / 2)}"}`)).toMatchObject(over);
  });

  it('may name ROWS_LIMIT versions of channels, each of which a read looks up', async () => {
    const versions = (count: number) =>
      `{"channel_versions":{${Array.from({ length: count }, (_, n) => `"c${n}":"1"`).join()}}}`;
    expect(await put(versions(ROWS))).toMatchObject({ status: 200 });
    expect(await put(versions(ROWS + 1))).toMatchObject(limited('ROWS_LIMIT', ROWS));
    const escaped = versions(ROWS + 1).replace('channel_versions', 'channel\\u005fversions');
    expect(await put(escaped)).toMatchObject(limited('ROWS_LIMIT', ROWS));
    expect(await put('{}', versions(ROWS + 1))).toMatchObject(limited('ROWS_LIMIT', ROWS));
  });

  it('is nobody’s business where no operation takes it', async () => {
    const thread_id = aThread();
    expect((await app.post('get-tuple', `{"thread_id":"${thread_id}","metadata":{"n":1e9999}}`)).status).toBe(
      200,
    );
  });

  it('that is no JSON gets 400, whatever else is wrong with it', async () => {
    for (const document of [
      '{"n":1e131071,}',
      '{"a":[1e9999}',
      `{"a":${'['.repeat(900)}}`,
      '{"a":"\\ud80"}',
    ]) {
      expect(await put(document)).toMatchObject({ status: 400, type: '/problems/malformed-body' });
    }
  });
});

describe('with the limits as they come', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1' });
  });
  afterAll(() => app.close());

  /** Few bytes that are many once they are inflated. */
  const putPacked = async (checkpoint: string) => {
    const body = brotliCompressSync(`{"thread_id":"t","checkpoint_id":"1","checkpoint":${checkpoint}}`, {
      params: { [constants.BROTLI_PARAM_QUALITY]: 5, [constants.BROTLI_PARAM_LGWIN]: 24 },
    });
    const { status } = await fetch(`${app.url}/checkpoints/put`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'content-encoding': 'br',
        ...(app.key && { 'x-agent-api-key': app.key }),
      },
      body: new Uint8Array(body),
    });
    return status;
  };

  /** The most private memory of the service's Postgres process while the work is done, in MB; null on another machine. */
  const peak = async (work: () => Promise<unknown>): Promise<number | null> => {
    const [row] = await app.database.sql<{ pid: number }>(
      `select pid from pg_stat_activity where application_name = 'checkpoint-backend' and datname = current_database()`,
    );
    let most: number | null = null;
    const look = () => {
      try {
        const [, kilobytes] = /RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${row?.pid}/status`, 'utf8')) ?? [];
        // One that has ended has none.
        if (kilobytes !== undefined) most = Math.max(most ?? 0, Number(kilobytes) / 1024);
      } catch {
        // another machine's
      }
    };
    const timer = setInterval(look, 5);
    await work();
    clearInterval(timer);
    return most;
  };

  const list = (item: string, count: number) => `{"a":[${Array(Math.floor(count)).fill(item).join()}]}`;
  it.each([
    ['the most empty objects that it takes', list('{}', 199_998), 200],
    ['the longest text that it takes', `{"a":"${'x'.repeat(16 * MIB - 10)}"}`, 200],
    ['16 MiB of empty objects', list('{}', (16 * MIB) / 3), 413],
    ['16 MiB of nulls', list('null', (16 * MIB) / 5), 413],
    ['16 MiB of brackets', '['.repeat(16 * MIB), 413],
    ['60 MiB of keys', `{${'"":0,'.repeat(10 * MIB)}"a":0}`, 413],
    ['60 MiB of text', `{"a":"${'x'.repeat(60 * MIB)}"}`, 413],
  ])('%s takes Postgres less than 300 MB', async (_, document, status) => {
    await app.post('get-tuple', { thread_id: 't' }); // so that there is a connection
    const most = await peak(async () => {
      expect(await putPacked(document)).toBe(status);
    });
    expect(most ?? 0).toBeLessThan(status === 200 ? 300 : 100);
  });
});
