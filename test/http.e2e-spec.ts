import { type TestApp, startApp } from './support/app.js';
import { createDatabase } from './support/database.js';
import { aPut, aThread, base64 } from './support/builders.js';

describe('around the operations', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  describe('a request id', () => {
    const idFor = async (given: Record<string, string>, operation = 'list') =>
      (await app.post(operation, '{}', given)).headers['x-request-id'];

    it('is taken from the request and returned, also with a refusal', async () => {
      expect(await idFor({ 'x-request-id': 'abc-123' })).toBe('abc-123');
      expect(await idFor({ 'x-request-id': 'abc-123' }, 'put')).toBe('abc-123');
      expect(await idFor({ 'x-request-id': 'abc-123' }, 'nothing')).toBe('abc-123');
    });

    it.each(['', 'a b', 'x'.repeat(129), 'é'])('is made when the given one is %j', async (given) => {
      expect(await idFor({ 'x-request-id': given })).toMatch(/^[0-9a-f-]{36}$/);
    });
  });

  describe('compression', () => {
    const raw = async (thread_id: string, encoding: string) => {
      const answer = await fetch(`${app.url}/checkpoints/get-tuple`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'accept-encoding': encoding },
        body: JSON.stringify({ thread_id }),
      });
      return { encoding: answer.headers.get('content-encoding'), text: await answer.text() };
    };
    const putBlob = async (bytes: number) => {
      const thread_id = aThread();
      const checkpoint = { channel_versions: { a: '1' } };
      const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('a'.repeat(bytes)) }];
      await app.post('put', aPut({ thread_id, checkpoint, blobs }));
      return thread_id;
    };

    it('is used for a large answer when the client takes it', async () => {
      const thread_id = await putBlob(100_000);
      const plain = await raw(thread_id, 'identity');
      expect(plain.encoding).toBeNull();
      for (const encoding of ['gzip', 'br']) {
        expect(await raw(thread_id, encoding)).toEqual({ encoding, text: plain.text });
      }
    });

    it('is not used for a small one', async () => {
      expect((await raw(await putBlob(1000), 'gzip')).encoding).toBeNull();
    });
  });

  it('says nothing of what it is built with', async () => {
    const { headers } = await app.get('/health/live');
    expect(headers).not.toHaveProperty('x-powered-by');
    expect(headers).not.toHaveProperty('etag');
  });

  it('answers a wrong route with a problem', async () => {
    expect(await app.get('/nowhere')).toMatchObject({
      status: 404,
      type: 'application/problem+json; charset=utf-8',
      json: { type: 'about:blank', status: 404, title: 'Not Found' },
    });
  });
});

describe('health', () => {
  it('is live without a database, and ready with one', async () => {
    const app = await startApp();
    expect(await app.get('/health/live')).toMatchObject({ status: 200, json: { status: 'ok' } });
    const ready = await app.get('/health/ready');
    expect([ready.status, ready.json]).toEqual([200, { status: 'ok' }]);
    await app.close();
  });

  it('stays ready when max_connections is near, and says so', async () => {
    const database = await createDatabase();
    const [{ max }] = (await database.sql(`select current_setting('max_connections')::int as max`)) as [
      { max: number },
    ];
    const app = await startApp({ INSTANCES: String(max), DATABASE_POOL_MAX: '2' }, database);
    const ready = await app.get('/health/ready');
    // Behind a pooler the pools open what it lets them.
    const isPooled = process.env.TEST_POOLER_URL !== undefined;
    expect([ready.status, ready.json]).toEqual([
      200,
      isPooled
        ? { status: 'ok' }
        : {
            status: 'ok',
            warning: expect.stringContaining(
              `Near max_connections: a pool of 2 × ${max} instances = ${2 * max} connections`,
            ),
          },
    ]);
    await app.close();
    await database.drop();
  });

  it.each([
    {
      what: 'a migration is missing',
      harm: `delete from checkpoint_backend_migrations where name like 'AddIndexes%'`,
      detail: /AddIndexes/,
    },
    {
      what: 'the schema is missing',
      harm: 'drop table checkpoint_backend_migrations',
      detail: /checkpoint-backend migrate/,
    },
    {
      what: 'the database is read-only',
      harm: "do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$",
      detail: /read-only/,
    },
  ])('is not ready when $what, and stays live', async ({ harm, detail }) => {
    const database = await createDatabase();
    await database.sql(harm);
    const app = await startApp({}, database);
    expect(await app.get('/health/ready')).toMatchObject({
      status: 503,
      type: 'application/problem+json; charset=utf-8',
      json: { detail: expect.stringMatching(detail) },
    });
    expect((await app.get('/health/live')).status).toBe(200);
    await app.close();
    await database.drop();
  });

  it('answers within 2 s when the database does not', async () => {
    const database = await createDatabase();
    const app = await startApp({}, database);
    await database.sql('begin');
    await database.sql('lock table checkpoint_backend_migrations');
    const start = Date.now();
    const answer = await app.get('/health/ready');
    expect([answer.status, answer.json.detail]).toEqual([503, 'The database did not answer in time']);
    expect(Date.now() - start).toBeLessThan(15_000);
    await database.sql('rollback');
    expect((await app.get('/health/ready')).status).toBe(200);
    await app.close();
    await database.drop();
  });
});
