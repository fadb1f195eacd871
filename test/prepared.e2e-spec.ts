import { createHash } from 'node:crypto';
import pg from 'pg';
import { BinaryClient, Statement } from '../src/database/binary-client.js';
import { PreparedClient, StatementNames } from '../src/database/prepared-client.js';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { program, startForgetfulPgbouncer } from './support/servers.mjs';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(() => database.drop());

describe('the name of a prepared statement', () => {
  it('stands for its text, whatever came before it, in every process', () => {
    const texts = Array.from({ length: 1000 }, (_, n) => `select ${n}`);
    const [one, other] = [new StatementNames(), new StatementNames()];
    const names = texts.map((text) => one.nameOf(text));
    expect(texts.toReversed().map((text) => other.nameOf(text))).toEqual(names.toReversed());
    expect(new Set(names).size).toBe(1000);
    // pg takes no longer ones.
    expect(Math.max(...names.map(({ length }) => length))).toBeLessThan(64);
    const hash = createHash('sha256').update('select 7').digest('base64url');
    expect(names[7]).toBe(`checkpoint-${hash.slice(0, 32)}`);
  });
});

describe('the prepared statements of a connection', () => {
  // A pooler has more than one.
  const itDirectly = process.env.TEST_POOLER_URL === undefined ? it : it.skip;

  itDirectly.each([
    {
      what: 'of ours',
      connect: () => new BinaryClient({ connectionString: database.url }),
      ask: (client: pg.Client, name: string, text: string) =>
        new Promise<unknown[]>((resolve, reject) => {
          const statement = new Statement(name, text, []);
          statement.callback = (error) => {
            if (error) reject(error);
            else resolve(statement.rows.flat());
          };
          client.query(statement as never);
        }),
    },
    {
      what: "of pg's",
      connect: () => new PreparedClient({ connectionString: database.url }),
      ask: async (client: pg.Client, name: string, text: string) =>
        (await client.query({ name, text, rowMode: 'array' })).rows.flat() as unknown[],
    },
  ])('$what are bounded, and those stay that were used last', async ({ connect, ask }) => {
    const client = connect();
    await client.connect();
    const often = 'select 4711';
    for (let n = 0; n < 300; n += 1) {
      expect(await ask(client, `n${n}`, `select ${n}`)).toEqual([n]);
      expect(await ask(client, 'often', often)).toEqual([4711]);
    }
    // One that was closed is prepared again.
    expect(await ask(client, 'n0', 'select 0')).toEqual([0]);
    const kept = await client.query<{ name: string; generic_plans: string; custom_plans: string }>(
      'select * from pg_prepared_statements',
    );
    expect(kept.rows.length).toBeLessThanOrEqual(32);
    const [first] = kept.rows.filter(({ name }) => name === 'often');
    expect(Number(first?.generic_plans) + Number(first?.custom_plans)).toBe(300);
    expect(kept.rows.map(({ name }) => name)).toEqual(expect.arrayContaining(['n0', 'n299', 'n298']));
    await client.end();
  });

  itDirectly('are prepared anew after a migration changed what they give', async () => {
    const app = await startApp({ DATABASE_POOL_MAX: '4' }, database);
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id }));
    const read = () => app.post('get-tuple', { thread_id });
    await Promise.all(Array.from({ length: 8 }, read));
    await database.sql('alter table checkpoint_writes alter column channel type varchar');
    await database.sql('alter table checkpoints alter column thread_id type varchar');
    const answers = await Promise.all(Array.from({ length: 8 }, read));
    expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200));
    await app.close();
  });
});

const pgbouncer = program('pgbouncer', ['/usr/sbin', '/usr/bin', '/usr/local/bin']);

(pgbouncer === null ? describe.skip : describe)('behind a pooler that keeps no prepared statements', () => {
  let pooler: { url: string; stop: () => Promise<void> };
  let apps: TestApp[];
  beforeEach(async () => {
    pooler = await startForgetfulPgbouncer(pgbouncer ?? '', process.env.TEST_SERVER_URL ?? '', 2);
    const url = Object.assign(new URL(pooler.url), { pathname: new URL(database.url).pathname }).href;
    apps = [];
    for (const FAST_PATH of ['true', 'true', 'false']) {
      apps.push(await startApp({ DATABASE_URL: url, FAST_PATH, DATABASE_PREPARED: 'true' }, database));
    }
  });
  afterEach(async () => {
    for (const app of apps) await app.close();
    await pooler.stop();
  });

  it('no statement is taken for another one, whichever instance began first', async () => {
    const [a, b] = apps as [TestApp, TestApp];
    const thread_id = aThread();
    const url = Object.assign(new URL(pooler.url), { pathname: new URL(database.url).pathname }).href;
    /** Keeps one of the two sessions from the others. */
    const hold = async () => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      await client.query('begin');
      return async () => {
        await client.query('commit');
        await client.end();
      };
    };
    expect((await b.post('delete-thread', { thread_id: aThread() })).status).toBe(204);
    expect((await b.post('put', aPut({ thread_id }))).status).toBe(200);
    const one = await hold();
    expect(await a.post('list', { thread_id, limit: 5 })).toMatchObject({ status: 200, json: [{}] });
    await one();
    const [two, three] = [await hold(), await hold()];
    await two();
    expect(await a.post('list', { thread_id, limit: 5 })).toMatchObject({ status: 200, json: [{}] });
    await three();
    expect(await database.sql('select from checkpoints where thread_id = $1', [thread_id])).toHaveLength(1);
  });

  it('everything is answered, by every instance', async () => {
    const threads = Array.from({ length: 12 }, () => aThread());
    const statuses = await Promise.all(
      threads.map(async (thread_id, n) => {
        const app = apps[n % apps.length] as TestApp;
        const seen: number[] = [];
        for (let round = 0; round < 5; round += 1) {
          const key = { thread_id, checkpoint_id: `${round}` };
          seen.push((await app.post('put', aPut({ ...key, metadata: { run_id: thread_id } }))).status);
          const read = await app.post('get-tuple', key);
          expect(read.json).toMatchObject(key);
          const list = await app.post('list', { thread_id, limit: 1 + round });
          expect(list.json).toHaveLength(1 + round);
          seen.push(read.status, list.status);
        }
        seen.push((await app.post('delete-thread', { thread_id })).status);
        return seen;
      }),
    );
    expect(statuses).toEqual(threads.map(() => [...Array<number>(15).fill(200), 204]));
  });
});
