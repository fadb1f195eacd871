import { randomUUID } from 'node:crypto';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { idOf } from '../src/auth/domain/api-key.js';
import { Settings } from '../src/config/env.js';
import { grantTo, inspectRights } from '../src/database/migrate.js';
import { grantsFor, neededRights } from '../src/database/rights.js';
import { startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { until } from './support/process.js';

const SOURCE = fileURLToPath(new URL('../src', import.meta.url));
const MODES = { AUTH_MODE: 'keys', AUDIT_LOG: 'table' };
const settingsOf = (url: string) => new Settings({ ...MODES, DATABASE_URL: url });

// A pooler knows no other role than the one of the tests.
const isPooled = process.env.TEST_POOLER_URL !== undefined;
const describeWithRoles = isPooled ? describe.skip : describe;

/** The database as a role that owns nothing and has no right yet. */
class Guest {
  private constructor(
    readonly database: TestDatabase,
    readonly role: string,
    readonly url: string,
  ) {}

  static async of(database: TestDatabase): Promise<Guest> {
    const role = `guest_${randomUUID().replaceAll('-', '')}`;
    await database.sql(`create role ${role} login password 'p'`);
    await database.sql('revoke create on schema public from public');
    const url = Object.assign(new URL(database.url), { username: role, password: 'p' }).href;
    return new Guest(database, role, url);
  }

  async leave(): Promise<void> {
    await this.database.sql(`drop owned by ${this.role}`);
    await this.database.sql(`drop role ${this.role}`);
  }
}

const readinessOf = async (app: TestApp): Promise<{ status: number; detail: string | undefined }> => {
  const { status, json } = await app.get('/health/ready');
  return { status, detail: json.detail as string | undefined };
};

describeWithRoles('a role with rights of its own', () => {
  let database: TestDatabase;
  let guest: Guest;
  beforeAll(async () => {
    database = await createDatabase();
    guest = await Guest.of(database);
  });
  afterAll(async () => {
    await guest.leave();
    await database.drop();
  });

  it('can do everything with what `migrate -- --grant-to` gives it', async () => {
    await grantTo(settingsOf(database.url), database.url, guest.role);
    const app = await startApp({ ...MODES, DATABASE_URL: guest.url }, database);
    const key = await aKey(database, { scopes: ['admin'] });
    const headers = { 'x-agent-api-key': key };
    expect(await readinessOf(app)).toEqual({ status: 200, detail: undefined });
    const requests: [string, object][] = [
      ['put', aPut({ thread_id: 'a', metadata: { run_id: 'r' } })],
      ['put-writes', aPutWrites({ thread_id: 'a' })],
      ['put-writes', { ...aPutWrites({ thread_id: 'a' }), upsert: true }],
      ['get-tuple', { thread_id: 'a' }],
      ['list', { limit: 1 }],
      ['delta-channel-history', { thread_id: 'a', channels: ['x'] }],
      ['copy-thread', { source_thread_id: 'a', target_thread_id: 'b' }],
      ['prune', { thread_ids: ['a'], strategy: 'keep_latest' }],
      ['prune', { thread_ids: ['b'], strategy: 'delete' }],
      ['delete-for-runs', { run_ids: ['r'] }],
      ['delete-thread', { thread_id: 'a' }],
    ];
    for (const [operation, body] of requests) {
      const { status } = await app.post(operation, body, headers);
      expect([operation, Math.trunc(status / 100)]).toEqual([operation, 2]);
    }
    const made = (await app.send('/keys/create', { name: 'n', scopes: ['read'] }, headers)).json;
    expect((await app.send('/keys/rotate', { id: made.id }, headers)).status).toBe(200);
    expect((await app.send('/keys/revoke', { id: idOf(made.key) }, headers)).status).toBe(204);
    expect((await app.send('/keys/list', {}, headers)).status).toBe(200);
    await app.close();
  });

  const rights = neededRights(settingsOf('postgresql://h/d')).flatMap(({ table, privileges }) =>
    privileges.map((privilege) => ({ table, privilege })),
  );
  it.each(rights)('is not ready without $privilege on $table, and says so', async ({ table, privilege }) => {
    await grantTo(settingsOf(database.url), database.url, guest.role);
    const app = await startApp({ ...MODES, DATABASE_URL: guest.url }, database);
    await database.sql(`revoke ${privilege} on ${table} from ${guest.role}`);
    expect(await readinessOf(app)).toEqual({
      status: 503,
      detail: `The role lacks rights: ${privilege} on "public".${table}; see \`checkpoint-backend migrate grants ROLE\``,
    });
    await app.close();
  });

  it.each([
    [{ AUTH_MODE: 'none' }, ['api_keys', 'api_keys_version', 'audit_log']],
    [{ AUTH_MODE: 'keys' }, ['audit_log']],
    [{ AUTH_MODE: 'none', AUDIT_LOG: 'table' }, ['api_keys', 'api_keys_version']],
  ])('needs nothing with %j that this mode does not use', async (mode, unused) => {
    await grantTo(settingsOf(database.url), database.url, guest.role);
    for (const table of unused) await database.sql(`revoke all on ${table} from ${guest.role}`);
    const app = await startApp({ AUDIT_LOG: 'log', ...mode, DATABASE_URL: guest.url }, database);
    expect(await readinessOf(app)).toEqual({ status: 200, detail: undefined });
    await app.close();
  });

  it('is ready with rights on each column in place of the table', async () => {
    await grantTo(settingsOf(database.url), database.url, guest.role);
    await database.sql(`revoke insert on audit_log from ${guest.role}`);
    const [{ columns }] = (await database.sql(
      `select string_agg(attname, ', ') as columns from pg_attribute
        where attrelid = 'audit_log'::regclass and attnum > 0 and not attisdropped`,
    )) as [{ columns: string }];
    await database.sql(`grant insert (${columns}) on audit_log to ${guest.role}`);
    const app = await startApp({ ...MODES, DATABASE_URL: guest.url }, database);
    expect((await readinessOf(app)).status).toBe(200);
    await app.close();
    await database.sql(`revoke insert (detail) on audit_log from ${guest.role}`);
    const other = await startApp({ ...MODES, DATABASE_URL: guest.url }, database);
    expect((await readinessOf(other)).detail).toContain('insert on "public".audit_log');
    await other.close();
  });

  it.each(['pg_try_advisory_xact_lock(bigint)', 'pg_terminate_backend(int, bigint)'])(
    'is not ready when an administrator has taken %s away',
    async (signature) => {
      await grantTo(settingsOf(database.url), database.url, guest.role);
      await database.sql(`revoke execute on function pg_catalog.${signature} from public`);
      const app = await startApp({ ...MODES, DATABASE_URL: guest.url }, database);
      const readiness = await readinessOf(app);
      await database.sql(`grant execute on function pg_catalog.${signature} to public`);
      expect(readiness).toEqual({ status: 503, detail: expect.stringContaining('execute on function') });
      await app.close();
    },
  );

  it('is told of a schema that it may not use', async () => {
    await grantTo(settingsOf(database.url), database.url, guest.role);
    await database.sql(`revoke usage on schema public from public, ${guest.role}`);
    const fault = await inspectRights(settingsOf(guest.url), guest.url);
    await database.sql('grant usage on schema public to public');
    expect(fault).toContain('usage on schema "public"');
  });

  it.each(['checkpoints', 'checkpoint_blobs', 'checkpoint_writes', 'api_keys', 'audit_log'])(
    'is not ready when row-level security hides rows of %s from it',
    async (table) => {
      await grantTo(settingsOf(database.url), database.url, guest.role);
      await database.sql(`alter table ${table} enable row level security`);
      const detail = expect.stringContaining(`Row-level security hides rows of ${table} from this role`);
      // Its owner, whom it does not concern, is ready.
      const owner = await startApp(MODES, database);
      expect((await readinessOf(owner)).status).toBe(200);
      await owner.close();
      expect(await inspectRights(settingsOf(guest.url), guest.url)).toEqual(detail);
      const app = await startApp({ ...MODES, DATABASE_URL: guest.url }, database).catch(() => null);
      if (app !== null) expect(await readinessOf(app)).toEqual({ status: 503, detail });
      await app?.close();
      await database.sql(`alter table ${table} disable row level security`);
    },
  );

  it('is told in docs/reference/database.md what it needs', () => {
    const text = readFileSync(join(SOURCE, '../docs/reference/database.md'), 'utf8');
    expect(text).toContain(`${grantsFor('public', 'agents').join(';\n')};\n`);
  });

  it('quotes the name of a role', () => {
    expect(grantsFor('public', 'a"; drop table checkpoints; --')[0]).toBe(
      'grant usage on schema "public" to "a""; drop table checkpoints; --"',
    );
  });
});

it('asks for every function of locks and sessions that the SQL names', () => {
  const texts = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
    .filter(
      (path) => /\.ts$/.test(path) && !/\.spec\.ts$|embedded-postgres|migrations|migrate\.ts/.test(path),
    )
    .map((path) => readFileSync(join(SOURCE, path), 'utf8'));
  const rightsText = readFileSync(join(SOURCE, 'database/rights.ts'), 'utf8');
  const named = texts.flatMap(
    (text) => text.match(/\bpg_(?:try_)?advisory_\w+|\bpg_(?:terminate|cancel)_backend/g) ?? [],
  );
  expect(new Set(named).size).toBeGreaterThan(1);
  for (const name of named) expect(rightsText).toContain(`'${name}(`);
});

describe('a full disk', () => {
  it('is found by a write that leaves nothing behind', async () => {
    const app = await startApp();
    const written = async () => {
      const [row] = await app.database.sql<{ bytes: string }>(
        'select temp_bytes as bytes from pg_stat_database where datname = current_database()',
      );
      return Number(row!.bytes);
    };
    const before = await written();
    expect((await readinessOf(app)).status).toBe(200);
    await until('Postgres counts it', async () => (await written()) - before > 1_000_000);
    await app.close();
  });

  it('that a statement has met makes the service unready until writes succeed', async () => {
    const app = await startApp({ OUTAGE_WAIT_MS: '200' });
    expect((await readinessOf(app)).status).toBe(200);
    await app.database.sql(`create function full_disk() returns trigger language plpgsql as
      $$ begin raise exception 'could not extend file' using errcode = '53100'; end $$`);
    await app.database.sql(
      'create trigger full_disk before insert on checkpoints execute function full_disk()',
    );
    expect((await app.post('put', aPut())).status).toBe(503);
    await delay(1100);
    expect(await readinessOf(app)).toEqual({ status: 503, detail: 'The disk of the database is full' });
    await app.database.sql('drop trigger full_disk on checkpoints');
    expect((await app.post('put', aPut())).status).toBe(200);
    await until('it is ready again', async () => (await readinessOf(app)).status === 200);
    await app.close();
  });
});

describe('probes', () => {
  /** Counts the connections that are made to Postgres. */
  async function aCounter(target: URL) {
    let opened = 0;
    let open = 0;
    let most = 0;
    const server = net.createServer((incoming) => {
      opened += 1;
      open += 1;
      most = Math.max(most, open);
      const outgoing = net.connect(Number(target.port), target.hostname);
      for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
      incoming.on('close', () => (open -= 1));
      incoming.pipe(outgoing).pipe(incoming);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as net.AddressInfo;
    const url = Object.assign(new URL(target), { hostname: '127.0.0.1', port: String(port) }).href;
    return { url, opened: () => opened, most: () => most, close: () => server.close() };
  }

  it('of a thousand that ask at once cost Postgres a connection a second', async () => {
    const database = await createDatabase();
    const counter = await aCounter(new URL(database.url));
    const app = await startApp({ DATABASE_URL: counter.url }, database);
    const before = counter.opened();
    const began = performance.now();
    const asked = await Promise.all(Array.from({ length: 1000 }, () => fetch(`${app.url}/health/ready`)));
    const seconds = (performance.now() - began) / 1000;
    expect(new Set(asked.map(({ status }) => status))).toEqual(new Set([200]));
    expect(counter.opened() - before).toBeLessThan(3 + seconds);
    await app.close();
    counter.close();
    await database.drop();
  });

  it('that Postgres does not answer take no connection from agents, and do not pile up', async () => {
    const database = await createDatabase();
    const counter = await aCounter(new URL(database.url));
    const app = await startApp({ DATABASE_URL: counter.url, DATABASE_POOL_MAX: '1' }, database);
    expect((await app.post('put', aPut())).status).toBe(200);
    const before = counter.most();
    await database.sql('begin');
    await database.sql('lock table checkpoint_backend_migrations');
    for (let n = 0; n < 3; n += 1) {
      const probes = Promise.all(Array.from({ length: 200 }, () => fetch(`${app.url}/health/ready`)));
      const puts = await Promise.all(Array.from({ length: 20 }, () => app.post('put', aPut())));
      expect(new Set(puts.map(({ status }) => status))).toEqual(new Set([200]));
      expect(new Set((await probes).map(({ status }) => status))).toEqual(new Set([503]));
    }
    expect(counter.most() - before).toBeLessThanOrEqual(3);
    const [waiting] = await database.sql<{ count: number }>(
      'select count(*)::int from pg_locks where not granted and relation is not null',
    );
    expect(waiting!.count).toBeLessThanOrEqual(2);
    await database.sql('rollback');
    await until('it is ready', async () => (await readinessOf(app)).status === 200);
    await app.close();
    counter.close();
    await database.drop();
  });

  it('say that it is ready while agents keep every connection busy', async () => {
    const database = await createDatabase();
    const app = await startApp({ DATABASE_POOL_MAX: '2' }, database);
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const puts = Array.from({ length: 4 }, (_, n) => app.post('put', aPut({ thread_id: `${n}` })));
    await delay(500);
    expect((await readinessOf(app)).status).toBe(200);
    await database.sql('commit');
    expect((await Promise.all(puts)).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    await app.close();
    await database.drop();
  });
});
