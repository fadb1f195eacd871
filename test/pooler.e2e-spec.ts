import { startApp } from './support/app.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service, until } from './support/process.js';

/** Needs PgBouncer: npm run test:pgbouncer. */
const { TEST_POOLER_URL } = process.env;

(TEST_POOLER_URL === undefined ? describe.skip : describe)('behind PgBouncer', () => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await createDatabase();
  });
  afterEach(async () => {
    await cleanUp();
    await database.drop();
  });

  const limitRole = (to: string) =>
    database.sql(`do $$ begin
      execute format('alter role %I in database %I set statement_timeout = %L', current_user, current_database(), '${to}');
    end $$`);

  it.each([
    {
      what: 'nobody',
      role: null,
      says: /"level":"warn".*this service gives up after 60000 ms, Postgres goes on/,
    },
    {
      what: 'the role, too late',
      role: '2min',
      says: /"level":"warn".*this service gives up after 60000 ms/,
    },
    { what: 'the role', role: '50s', says: /"level":"info".*Postgres ends a statement after 50000 ms/ },
    {
      what: 'the role, at the same time',
      role: '60s',
      says: /"level":"info".*Postgres ends a statement after 60000 ms/,
    },
  ])('the log says who ends a statement: $what', async ({ role, says }) => {
    if (role !== null) await limitRole(role);
    const service = await Service.start({ DATABASE_URL: database.url }).ready();
    expect(service.log).toMatch(says);
    expect(service.log).toMatch(/connections: a pool of 10 × 1 instances, behind a pooler; \d+ are open/);
  });

  it('Postgres ends a statement that takes longer than the role may', async () => {
    await limitRole('300ms');
    const app = await startApp({ STATEMENT_TIMEOUT_MS: '60000' }, database);
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const { status, json } = await app.post('get-tuple', { thread_id: 't' });
    expect({ status, detail: json.detail }).toEqual({ status: 503, detail: 'A statement took over 300 ms' });
    const waiting = () => database.sql('select 1 from pg_locks where not granted and relation is not null');
    await until('no statement waits any longer', async () => (await waiting()).length === 0);
    await database.sql('rollback');
    expect((await app.post('get-tuple', { thread_id: 't' })).status).toBe(200);
    await app.close();
  });
});
