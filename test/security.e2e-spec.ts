import { randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';
import { aDataDir, cleanUp, clusterOf, Service } from './support/process.js';
import { RawClient } from './support/raw-client.js';
import { relationsOf, rowsOf } from './support/schema.js';

const SLOW_MS = 90_000;
const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** The attempts that docs/explain/security-attempts-*.md name, as far as no other suite has them. */
describe.each(['true', 'false'])('an attacker who reaches the port, FAST_PATH=%s', (FAST_PATH) => {
  let app: TestApp;
  /** A thread of somebody else's. */
  let victim: string;
  beforeAll(async () => {
    app = await startApp({ FAST_PATH, ROWS_LIMIT: '20' });
  });
  afterAll(() => app.close());
  beforeEach(async () => {
    victim = aThread();
    const checkpoint = { channel_versions: { a: '1' }, channel_values: { secret: 'of the victim' } };
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('of the victim') }];
    await app.post('put', aPut({ thread_id: victim, checkpoint, blobs, metadata: { of: 'the victim' } }));
    await app.post('put-writes', aPutWrites({ thread_id: victim }));
  });

  const isWhole = async () => {
    const { json } = await app.post('get-tuple', { thread_id: victim });
    expect(json).toMatchObject({ blobs: [{ channel: 'a' }], pending_writes: [{ task_id: 'task-1' }] });
  };

  /** Writes the lines as they are, and gives all that came back until the connection was closed. */
  const raw = async (...lines: string[]) => {
    const client = await RawClient.open(app.url);
    return client.write(lines.join('\r\n')).closed();
  };

  /** Valid requests with the text in each of their fields, one at a time. */
  const requestsWith = (text: string): [operation: string, body: object][] => {
    const fields = (body: object, ...names: string[]) => names.map((name) => ({ ...body, [name]: text }));
    const blob = { channel: 'c', version: '1', type: 't', blob: base64('x') };
    const thread_id = aThread();
    const of = (operation: string, bodies: object[]) =>
      bodies.map((body): [string, object] => [operation, body]);
    const ids = ['thread_id', 'checkpoint_ns', 'checkpoint_id'];
    return [
      ...of('get-tuple', fields({ thread_id }, ...ids)),
      ...of('put', fields(aPut({ thread_id }), ...ids, 'parent_checkpoint_id')),
      ...of('put', [
        ...fields(blob, 'channel', 'version', 'type').map((item) => aPut({ thread_id, blobs: [item] })),
        aPut({ thread_id, checkpoint: { [text]: text, channel_versions: { [text]: text } } }),
        aPut({ thread_id, metadata: { [text]: text, run_id: text } }),
      ]),
      ...of('put-writes', fields(aPutWrites({ thread_id }), ...ids)),
      ...of(
        'put-writes',
        fields(aWrite(), 'task_id', 'channel', 'type', 'task_path').flatMap((item) => [
          aPutWrites({ thread_id, writes: [item] }),
          aPutWrites({ thread_id, writes: [item], upsert: true }),
        ]),
      ),
      ...of('list', fields({ limit: 1 }, ...ids, 'before_checkpoint_id')),
      ...of('list', [
        { filter_metadata: { [text]: text } },
        { cursor: Buffer.from(JSON.stringify([text, text, text])).toString('base64url') },
      ]),
      ...of('delta-channel-history', fields({ thread_id, channels: [text] }, ...ids)),
      ...of('copy-thread', [
        { source_thread_id: text, target_thread_id: thread_id },
        { source_thread_id: thread_id, target_thread_id: text },
      ]),
      ...of('delete-for-runs', [{ run_ids: [text] }]),
      ...of('prune', [
        { thread_ids: [text], strategy: 'keep_latest' },
        { thread_ids: [text], strategy: 'delete' },
      ]),
      ...of('delete-thread', [{ thread_id: text }]),
    ];
  };

  it.each([
    `'; drop table checkpoints; --`,
    `'; update checkpoints set metadata = '{}'; --`,
    `' or '1'='1`,
    `') or true --`,
    `" or ""="`,
    `$1`,
    `$1::text); delete from checkpoint_blobs; --`,
    `{"a","b"}`,
    `{NULL}`,
    `\\'; delete from checkpoint_writes; --`,
    `%`,
    `_`,
    `*`,
    `$.**`,
    `\u02bc or 1=1 --`,
    `\uff07 or 1=1 --`,
  ])('writes SQL into every text of every operation, and it is but a text: %s', async (text) => {
    const relations = await relationsOf(app.database.sql);
    const before = await rowsOf(app.database.sql);
    for (const [operation, body] of requestsWith(text)) {
      const { status } = await app.post(operation, body);
      expect([operation, body, status]).toEqual([operation, body, expect.any(Number)]);
      expect([200, 204, 422]).toContain(status);
    }
    expect(await relationsOf(app.database.sql)).toEqual(relations);
    const after = await rowsOf(app.database.sql, before);
    for (const [table, { rows }] of Object.entries(before)) {
      expect(after[table]?.rows).toEqual(expect.arrayContaining(rows));
    }
    await isWhole();
  });

  it('breaks out of no header by what it stores', async () => {
    const thread_id = `${aThread()}\r\nset-cookie: forged=1\r\n\r\n<script>`;
    for (const checkpoint_id of ['1', '2']) await app.post('put', aPut({ thread_id, checkpoint_id }));
    const { headers } = await app.post('list', { thread_id, limit: 1 });
    expect(headers['x-next-cursor']).toMatch(/^[\w-]+$/);
    expect(headers).not.toHaveProperty('set-cookie');
  });

  it.each(['a\rset-cookie: forged=1', 'a\nset-cookie: forged=1', 'a\0b', 'a\r\n set-cookie: forged=1'])(
    'breaks out of no header by one that it sends: %j',
    async (id) => {
      const answer = await raw(
        'POST /checkpoints/get-tuple HTTP/1.1',
        'Host: test',
        'Connection: close',
        `X-Request-Id: ${id}`,
        'Content-Type: application/json',
        'Content-Length: 2',
        '',
        '{}',
      );
      expect(answer).toMatch(/^HTTP\/1\.1 4\d\d /);
      expect(answer).not.toMatch(/^set-cookie|forged/im);
    },
  );

  it.each([
    ['both lengths', ['Content-Length: 2', 'Transfer-Encoding: chunked'], ['0', '', '']],
    ['two lengths', ['Content-Length: 0', 'Content-Length: 2'], []],
    ['a list of lengths', ['Content-Length: 0, 2'], []],
    ['a length with a sign', ['Content-Length: +0'], []],
    ['a coding that is none', ['Transfer-Encoding: xchunked', 'Content-Length: 0'], []],
    ['a coding after chunked', ['Transfer-Encoding: chunked, identity'], ['0', '', '']],
    ['a space before the colon', ['Content-Length : 0'], []],
    ['a folded header', ['X: y', ' Content-Length: 0'], []],
    ['a chunk of no length', ['Transfer-Encoding: chunked'], ['0x0', '', '']],
    ['a chunk with a sign', ['Transfer-Encoding: chunked'], ['-0', '', '']],
  ])('smuggles no request past a proxy: %s', async (_, headers, body) => {
    const json = JSON.stringify({ thread_id: victim });
    const smuggled = [
      ...['POST /checkpoints/delete-thread HTTP/1.1', 'Host: test', 'Content-Type: application/json'],
      ...[`Content-Length: ${json.length}`, '', json],
    ];
    const answer = await raw(
      ...['POST /checkpoints/get-tuple HTTP/1.1', 'Host: test', 'Content-Type: application/json'],
      ...[...headers, '', ...body, ...smuggled],
    );
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    await isWhole();
  });

  it.each(['TRACE', 'OPTIONS', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'GET', 'CONNECT', 'PROPFIND'])(
    'does nothing, and is shown nothing, by %s',
    async (method) => {
      const json = JSON.stringify({ thread_id: victim });
      const answer = await raw(
        ...[`${method} /checkpoints/delete-thread HTTP/1.1`, 'Host: test', 'Connection: close'],
        ...['X-Secret: of-a-proxy', 'Content-Type: application/json', `Content-Length: ${json.length}`],
        ...['', json],
      );
      expect(answer).not.toMatch(/^HTTP\/1\.1 [25]/);
      expect(answer).not.toContain('of-a-proxy');
      await isWhole();
    },
  );

  it('gets nothing into an answer by the host that it names', async () => {
    for (const path of ['/docs', '/docs/', '/openapi.json', '/health/live', '/nowhere', '/metrics']) {
      const answer = await raw(
        ...[`GET ${path} HTTP/1.1`, 'Host: evil.test', 'X-Forwarded-Host: evil.test'],
        ...['X-Forwarded-Proto: evil', 'Connection: close', '', ''],
      );
      expect(answer).toMatch(/^HTTP\/1\.1 [2-4]/);
      expect(answer).not.toContain('evil');
    }
  });

  it.each([
    '/docs/../package.json',
    '/docs/../../package.json',
    '/docs/%2e%2e/%2e%2e/package.json',
    '/docs/..%2f..%2fpackage.json',
    '/docs/..%5c..%5cpackage.json',
    '/docs/....//....//package.json',
    '/docs/%00package.json',
    '//etc/passwd',
    '/docs//etc/passwd',
    'file:///etc/passwd',
  ])('reads no file but those of Swagger UI: %s', async (path) => {
    const answer = await raw(`GET ${path} HTTP/1.1`, 'Host: test', 'Connection: close', '', '');
    expect(answer).toMatch(/^HTTP\/1\.1 4/);
    expect(answer).not.toMatch(/"dependencies"|"version"|root:/);
  });

  it('gives objects no property by the names of their prototypes', async () => {
    const evil = '{"polluted":1,"thread_id":"t","upsert":true,"limit":1}';
    const keys = `"__proto__":${evil},"constructor":{"prototype":${evil}}`;
    const put = JSON.stringify(aPut({ thread_id: victim, checkpoint_id: '0' })).slice(1, -1);
    for (const [operation, body] of [
      ['put', `{${put},${keys}}`],
      ['put', `{${put},"blobs":[{"channel":"__proto__","version":"1","type":"t","blob":null,${keys}}]}`],
      ['put', `{${put},"checkpoint":{${keys}},"metadata":{${keys}}}`],
      ['list', `{"filter_metadata":{${keys}},${keys}}`],
    ] as const) {
      expect((await app.post(operation, body)).status).toBe(200);
    }
    for (const operation of ['delete-thread', 'get-tuple']) {
      const body = `{"__proto__":{"thread_id":${JSON.stringify(victim)}}}`;
      expect((await app.post(operation, body)).json.errors).toEqual([
        { pointer: '#/thread_id', detail: 'is missing' },
      ]);
    }
    const kept = await app.post('get-tuple', { thread_id: victim, checkpoint_id: '0' });
    expect(kept.text).toContain(`"constructor": {"prototype": {`);
    expect({}).not.toHaveProperty('polluted');
    expect(Object.prototype).not.toHaveProperty('upsert');
  });

  it('cannot have a web page of another origin read or write', async () => {
    const preflight = await raw(
      ...['OPTIONS /checkpoints/get-tuple HTTP/1.1', 'Host: test', 'Origin: https://evil.test'],
      ...['Access-Control-Request-Method: POST', 'Access-Control-Request-Headers: content-type'],
      ...['Connection: close', '', ''],
    );
    expect(preflight).not.toMatch(/^access-control-/im);
    const origin = { origin: 'https://evil.test' };
    const read = await app.post('get-tuple', { thread_id: victim }, origin);
    expect(Object.keys(read.headers).filter((name) => name.startsWith('access-control-'))).toEqual([]);
    // What a page may send without being asked first.
    for (const type of ['text/plain', 'multipart/form-data', 'application/x-www-form-urlencoded']) {
      const sent = await app.post(
        'delete-thread',
        { thread_id: victim },
        { ...origin, 'content-type': type },
      );
      expect(sent.status).toBe(415);
    }
    await isWhole();
  });

  it('learns neither code nor SQL from a refusal', async () => {
    const odd = [null, 1, 'x', [], {}, '\0', 'é'.repeat(3000), { a: [{ b: 1e308 }] }];
    const names = [
      'thread_id',
      'checkpoint_ns',
      'checkpoint',
      'blobs',
      'writes',
      'limit',
      'cursor',
      'include',
    ];
    const told: string[] = [];
    for (const operation of ['get-tuple', 'put', 'put-writes', 'list', 'prune', 'copy-thread']) {
      for (const name of names) {
        for (const value of odd) {
          const { status, text } = await app.post(operation, { ...aPut(), [name]: value });
          expect(status).toBeLessThan(500);
          if (status >= 400) told.push(text);
        }
      }
    }
    for (const body of ['{', '', '[', '\ud800', '{"a":1e999999}', '[[[[']) {
      told.push((await app.post('put', body)).text);
    }
    expect(told.length).toBeGreaterThan(100);
    const inside =
      /\bselect\b|\binsert\b|node_modules|\.[jt]s:\d|\bat \w+ \(|\/(src|dist)\/|postgres|checkpoint_(blobs|writes)/i;
    expect(told.filter((text) => inside.test(text))).toEqual([]);
  });

  it('makes no header that takes long to read', async () => {
    const many = 'a'.repeat(15_000);
    const began = performance.now();
    const sent: Record<string, string>[] = [
      { 'content-type': `application/json${' '.repeat(15_000)}x` },
      { 'content-type': `application/json;charset=utf-8${' '.repeat(15_000)}"` },
      { 'accept-encoding': `${'gzip;q=0.1,'.repeat(1300)}x` },
      { 'content-encoding': many },
      { 'x-request-id': many },
      { traceparent: `00-${many}` },
      { accept: '*/*;'.repeat(3500) },
    ];
    for (const headers of sent) await app.post('get-tuple', { thread_id: victim }, headers);
    expect(performance.now() - began).toBeLessThan(30_000);
  });

  it('sees no id and nothing that is stored in the metrics', async () => {
    const secret = `secret-${randomUUID()}`;
    await app.post('put', aPut({ thread_id: secret, checkpoint_id: secret, metadata: { secret } }));
    await app.post('get-tuple', { thread_id: secret });
    await app.post(secret, {});
    await app.get(`/${secret}`);
    const { status, text } = await app.get('/metrics');
    expect(status).toBe(200);
    expect(text).toContain('checkpoint_backend_requests_total');
    expect(text).not.toMatch(/secret-|the victim|postgres(ql)?:\/\//);
  });
});

describe('somebody on the machine', () => {
  afterEach(cleanUp, SLOW_MS);

  it(
    'finds no password among the arguments of the processes',
    async () => {
      const database = await createDatabase();
      const password = new URL(database.url).password;
      expect(password).not.toBe('');
      const service = await Service.start({ DATABASE_URL: database.url, WORKERS: '2' }).ready();
      const lines = readdirSync('/proc')
        .filter((name) => /^\d+$/.test(name))
        .map((pid) => argumentsOf(pid));
      expect(lines.filter((line) => line.includes('dist/src')).length).toBeGreaterThanOrEqual(3);
      expect(lines.filter((line) => line.includes(password))).toEqual([]);
      await service.stop();
      await database.drop();
    },
    SLOW_MS,
  );

  it(
    'gets into the embedded Postgres by its password alone, which its owner alone can read',
    async () => {
      const dataDir = aDataDir();
      const service = await Service.start({ DATA_DIR: dataDir }).ready();
      const cluster = clusterOf(dataDir);
      const [, , , port, , address] = readFileSync(join(cluster, 'postmaster.pid'), 'utf8').split('\n');
      expect(address).toBe('127.0.0.1');
      for (const password of ['', 'postgres']) {
        const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
        const client = new pg.Client({ connectionString: url });
        await expect(client.connect()).rejects.toThrow(/password/);
      }
      expect(statSync(cluster).mode & 0o077).toBe(0);
      expect(statSync(join(cluster, 'checkpoint-backend.password')).mode & 0o077).toBe(0);
      await service.stop();
    },
    SLOW_MS,
  );

  it(
    'finds every line of the log to be one that the service wrote',
    async () => {
      const database = await createDatabase();
      const service = await Service.start({ DATABASE_URL: database.url, LOG_LEVEL: 'trace' }).ready();
      const forged = '\n{"level":"fatal","msg":"forged"}\n\u001b[2J\u2028';
      await service.post('put', aPut({ thread_id: forged, checkpoint_id: forged }));
      await service.post('put', aPut({ thread_id: '', checkpoint: forged, [forged]: forged }));
      await service.post(`nothing/%0a%7b%22level%22:%22fatal%22%7d`, {});
      const client = await RawClient.open(service.url);
      const head = ['GET /a"b\\n{"level":"fatal"} HTTP/1.1', 'Host: t', 'X-Request-Id: {"level":"fatal"}'];
      client.write([...head, 'Connection: close', '', ''].join('\r\n'));
      await client.closed();
      await service.stop();
      const lines = service.log.split('\n').filter(Boolean);
      expect(lines.length).toBeGreaterThan(3);
      const levels = lines.map((line) => (JSON.parse(line) as { level: string }).level);
      expect(levels).not.toContain('fatal');

      expect(service.log).not.toMatch(/\u001b|\u2028/);
      await database.drop();
    },
    SLOW_MS,
  );
});

describe('docs/explain/security-attempts-*.md', () => {
  const SHELF = join(ROOT, 'docs/explain');
  const pages = readdirSync(SHELF).filter((name) => name.startsWith('security-attempts-'));
  const rows = pages.flatMap((page) =>
    readFileSync(join(SHELF, page), 'utf8')
      .split('\n')
      .filter((line) => /^\| (?!-|Threat)/.test(line)),
  );

  it('have an attempt for each threat, which exists', () => {
    expect(rows.length).toBeGreaterThan(100);
    for (const row of rows) {
      const attempts = [...row.matchAll(/`([\w./-]+\.(?:ts|py|mjs))`: ([^<|]+?)(?= *[<|])/g)];
      expect([row, attempts.length]).toEqual([row, expect.any(Number)]);
      expect(attempts).not.toEqual([]);
      for (const [, file, name] of attempts) {
        expect([row, readFileSync(join(ROOT, file!), 'utf8').includes(name!)]).toEqual([row, true]);
      }
    }
  });

  it('are all named in security.md', () => {
    const overview = readFileSync(join(SHELF, 'security.md'), 'utf8');
    for (const page of pages) expect(overview).toContain(`](${page})`);
  });
});

/** Empty for a process that has ended meanwhile. */
function argumentsOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
