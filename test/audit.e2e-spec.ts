import { setTimeout as delay } from 'node:timers/promises';
import { idOf, newKeyText } from '../src/auth/domain/api-key.js';
import { startApp, type TestApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { startLossyNetwork } from './support/lossy-network.js';
import { cleanUp, Service, until } from './support/process.js';

const sent = (key: string) => ({ 'x-agent-api-key': key });

const BLOCKED = `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;

interface Row {
  operation: string;
  outcome: string;
  request_id: string;
  tenant: string | null;
  key_id: string | null;
  key_name: string | null;
  detail: Record<string, unknown>;
}

describe.each(['true', 'false'])('AUDIT_LOG=table with FAST_PATH=%s', (fastPath) => {
  let database: TestDatabase;
  let app: TestApp;
  let key: string;
  beforeAll(async () => {
    database = await createDatabase();
    key = await aKey(database, { name: 'ops', tenant: 'team', scopes: ['admin'] });
    app = await startApp({ AUTH_MODE: 'keys', AUDIT_LOG: 'table', FAST_PATH: fastPath }, database);
  });
  afterAll(async () => {
    await app.close();
    await database.drop();
  });
  const rows = (requestId: string) =>
    database.sql<Row>('select * from audit_log where request_id = $1 order by id', [requestId]);

  it.each([
    ['delete-thread', { thread_id: 't-1' }, { thread_id: 't-1' }],
    ['delete-thread', '{"thread_id": 12345678901234567890}', { thread_id: '12345678901234567890' }],
    [
      'copy-thread',
      { source_thread_id: 't-1', target_thread_id: 't-2' },
      { source_thread_id: 't-1', target_thread_id: 't-2' },
    ],
    [
      'prune',
      { thread_ids: ['t-1', 't-2'], strategy: 'delete' },
      { thread_ids: ['t-1', 't-2'], strategy: 'delete' },
    ],
    ['delete-for-runs', { run_ids: ['run-1'] }, { run_ids: ['run-1'] }],
  ])('has the row of an acknowledged %s of %j', async (operation, body, detail) => {
    const id = `request-${Math.random()}`;
    const { status } = await app.post(operation, body, { ...sent(key), 'x-request-id': id });
    expect(status).toBe(204);
    expect(await rows(id)).toEqual([
      expect.objectContaining({
        ...{ operation, outcome: 'done', tenant: 'team', key_id: idOf(key), key_name: 'ops', detail },
        ...{ subject: null, at: expect.any(Date) },
      }),
    ]);
  });

  it.each([
    ['put', aPut()],
    ['get-tuple', { thread_id: 't-1' }],
    ['delete-thread', {}],
  ])('has none of %s %j', async (operation, body) => {
    const id = `request-${Math.random()}`;
    await app.post(operation, body, { ...sent(key), 'x-request-id': id });
    expect(await rows(id)).toEqual([]);
  });

  it('has the changes of keys, without their texts', async () => {
    const { json } = await app.send('/keys/create', { name: 'new', scopes: ['read'] }, sent(key));
    await app.send('/keys/rotate', { id: json.id }, sent(key));
    await app.send('/keys/revoke', { id: json.id }, sent(key));
    const found = await database.sql<Row>(
      `select * from audit_log where operation like 'keys-%' order by id`,
    );
    expect(found.map(({ operation, outcome, detail }) => [operation, outcome, detail])).toEqual([
      ['keys-create', 'done', { name: 'new', scopes: ['read'], made: json.id }],
      ['keys-rotate', 'done', { id: json.id, made: expect.any(String) }],
      ['keys-revoke', 'done', { id: json.id }],
    ]);
    expect(JSON.stringify(found)).not.toContain(json.key.slice(18));
  });

  it('has who was refused, and why, and of a flood a few and their number', async () => {
    const reader = await aKey(database, { name: 'reader', scopes: ['read'] });
    await app.post('delete-thread', { thread_id: 't-1' }, { ...sent(reader), 'x-request-id': 'no-scope' });
    await app.post('delete-thread', { thread_id: 't-1' }, { 'x-request-id': 'no-key' });
    await until('they are written', async () => (await rows('no-key')).length === 1);
    expect(await rows('no-scope')).toEqual([
      expect.objectContaining({
        ...{
          operation: 'delete-thread',
          outcome: 'refused',
          tenant: '',
          key_id: idOf(reader),
          key_name: 'reader',
        },
        detail: { reason: 'The operation takes the scope delete', from: '127.0.0.1' },
      }),
    ]);
    expect(await rows('no-key')).toEqual([
      expect.objectContaining({
        tenant: null,
        key_id: null,
        detail: { reason: 'no key', from: '127.0.0.1' },
      }),
    ]);
    const forged = newKeyText();
    for (let n = 0; n < 50; n += 1) await app.post('get-tuple', { thread_id: 't-1' }, sent(forged));
    const counted = () => database.sql<Row>(`select * from audit_log where operation = '*'`);
    await until('they are counted', async () => (await counted()).length > 0);
    const refused = await database.sql<Row>(`select * from audit_log where outcome = 'refused'`);
    expect(refused.length).toBeLessThanOrEqual(25);
    expect(JSON.stringify(refused)).not.toContain(forged.slice(18));
  });

  it.each(['update audit_log set tenant = null', 'delete from audit_log', 'truncate audit_log'])(
    'is append-only: %s',
    async (statement) => {
      await expect(database.sql(statement)).rejects.toThrow('audit_log is append-only');
    },
  );

  it('does no delete that it cannot write down, nor acknowledges it', async () => {
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id }), sent(key));
    await database.sql('alter table audit_log rename to elsewhere');
    const { status } = await app.post('delete-thread', { thread_id }, sent(key));
    await database.sql('alter table elsewhere rename to audit_log');
    expect(status).toBe(500);
    expect((await app.post('get-tuple', { thread_id }, sent(key))).json).not.toBeNull();
  });

  it('makes no key that it cannot write down', async () => {
    await database.sql('alter table audit_log rename to elsewhere');
    const name = aThread();
    const { status } = await app.send('/keys/create', { name, scopes: ['read'] }, sent(key));
    await database.sql('alter table elsewhere rename to audit_log');
    expect(status).toBe(500);
    expect(await database.sql('select from api_keys where name = $1', [name])).toEqual([]);
  });

  it('names every thread of a long prune, in rows of some threads each', async () => {
    const id = `request-${Math.random()}`;
    const thread_ids = Array.from({ length: 200 }, (_, n) => `pruned-${n}`);
    const body = { thread_ids, strategy: 'delete' };
    expect((await app.post('prune', body, { ...sent(key), 'x-request-id': id })).status).toBe(204);
    const named = (await rows(id)).map(({ detail }) => detail.thread_ids as string[]);
    expect(named.flat().sort()).toEqual(thread_ids.sort());
    expect(Math.max(...named.map((ids) => ids.length))).toBeLessThanOrEqual(64);
  });

  it('names the threads of runs', async () => {
    const [run_id, thread_id, id] = [aThread(), aThread(), `request-${Math.random()}`];
    await app.post('put', aPut({ thread_id, metadata: { run_id } }), sent(key));
    await app.post('delete-for-runs', { run_ids: [run_id] }, { ...sent(key), 'x-request-id': id });
    expect((await rows(id)).map(({ detail }) => detail)).toEqual([
      { run_ids: [run_id], thread_ids: [thread_id] },
    ]);
  });

  it('has rows of bounded length', async () => {
    const id = `request-${Math.random()}`;
    const run_ids = Array.from({ length: 9000 }, (_, n) => `run-${n}`);
    await app.post('delete-for-runs', { run_ids }, { ...sent(key), 'x-request-id': id });
    const [row] = await rows(id);
    expect(row?.detail.run_ids).toEqual({
      ...{ first: expect.arrayContaining(['run-0', 'run-1']), count: 9000 },
    });
    expect(JSON.stringify(row).length).toBeLessThan(20_000);
  });
});

describe('AUDIT_LOG=table when the network fails', () => {
  it.each(['insert into', 'commit'])('has one row of a delete whose %s is never answered', async (lost) => {
    const database = await createDatabase();
    const network = await startLossyNetwork(database.url);
    const app = await startApp({ AUDIT_LOG: 'table', DATABASE_URL: network.url }, database);
    try {
      const thread_id = aThread();
      await app.post('put', aPut({ thread_id }));
      network.loseAnswerTo(lost);
      expect((await app.post('delete-thread', { thread_id })).status).toBe(204);
      expect(network.lost).toBe(1);
      expect((await app.post('get-tuple', { thread_id })).json).toBeNull();
      const found = await database.sql<Row>(`select * from audit_log where detail ->> 'thread_id' = $1`, [
        thread_id,
      ]);
      expect(found.map(({ outcome }) => outcome)).toEqual(['done']);
    } finally {
      await app.close();
      await network.close();
      await database.drop();
    }
  });

  it('keeps the row of a delete that was begun when the queue is full behind it', async () => {
    const database = await createDatabase();
    const app = await startApp(
      { AUDIT_LOG: 'table', DATABASE_POOL_MAX: '1', QUEUE_MAX: '1', QUEUE_WAIT_MS: '200' },
      database,
    );
    try {
      const thread_id = aThread();
      await app.post('put', aPut({ thread_id }));
      await database.sql('begin');
      await database.sql('select from checkpoints where thread_id = $1 for update', [thread_id]);
      const deleted = app.post('delete-thread', { thread_id });
      await until('the delete waits', async () => {
        await database.sql('select pg_stat_clear_snapshot()');
        return (await database.sql(BLOCKED)).length === 1;
      });
      const others = [app.post('get-tuple', { thread_id }), app.post('get-tuple', { thread_id })];
      await delay(300); // until the queue has given one up
      await database.sql('commit');
      expect((await deleted).status).toBe(204);
      await Promise.all(others);
      const found = await database.sql<Row>('select * from audit_log');
      expect(found.map(({ operation, outcome }) => [operation, outcome])).toEqual([
        ['delete-thread', 'done'],
      ]);
    } finally {
      await app.close();
      await database.drop();
    }
  });
});

describe('AUDIT_LOG=log', () => {
  it('writes a line for each, and never a key', async () => {
    const database = await createDatabase();
    const key = await aKey(database, { name: 'ops', scopes: ['delete'] });
    const service = await Service.start({
      ...{ DATABASE_URL: database.url, AUTH_MODE: 'keys', LOG_LEVEL: 'info' },
    }).ready();
    try {
      const post = (headers: Record<string, string>) =>
        fetch(`${service.url}/checkpoints/delete-thread`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...headers },
          body: '{"thread_id": "t-1"}',
        });
      expect((await post(sent(key))).status).toBe(204);
      expect((await post(sent(newKeyText()))).status).toBe(401);
      await until('both are written', () => service.log.split('"audit":').length === 3);
      const events = service.log
        .split('\n')
        .filter((line) => line.includes('"audit":'))
        .map((line) => JSON.parse(line).audit);
      expect(events).toEqual([
        expect.objectContaining({
          ...{ operation: 'delete-thread', outcome: 'done', tenant: '', detail: { thread_id: 't-1' } },
          by: { key: idOf(key), name: 'ops' },
        }),
        expect.objectContaining({ operation: 'delete-thread', outcome: 'refused', tenant: null }),
      ]);
      expect(service.log).not.toContain(key.slice(18));
    } finally {
      await cleanUp();
      await database.drop();
    }
  });
});
