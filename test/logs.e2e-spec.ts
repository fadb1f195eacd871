import { aPut, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service, until } from './support/process.js';

const SLOW_MS = 90_000;

interface Line {
  level: string;
  msg: string;
  context?: string;
  kind?: string;
  reason?: string;
  count?: number;
  err?: { stack: string };
  req?: { method: string; url: string };
  res?: { statusCode: number };
}

let database: TestDatabase;
let service: Service;

const start = async (environment: Record<string, string> = {}) => {
  service = await Service.start({ DATABASE_URL: database.url, LOG_LEVEL: 'debug', ...environment }).ready();
};
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await cleanUp();
  await database.drop();
}, SLOW_MS);

const lines = (): Line[] =>
  service.log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line);
/** The lines of requests for operations. */
const requests = () => lines().filter(({ req }) => req?.url.startsWith('/checkpoints/'));

it(
  'a request is a line, at debug, warn or error by its status, and no line has a payload',
  async () => {
    await start();
    const secret = { checkpoint: { a: 'S3CRET' }, metadata: { a: 'S3CRET' } };
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('S3CRET') }];
    await service.post('put', aPut({ ...secret, blobs }));
    await service.post('put', { ...secret, blobs, thread_id: '' });
    await database.sql(`alter table checkpoints add constraint none check (checkpoint_id <> 'x')`);
    await service.post('put', aPut({ ...secret, blobs, checkpoint_id: 'x' }));
    await until('the lines are there', () => requests().length === 3);
    expect(requests().map(({ level, res }) => [level, res?.statusCode])).toEqual([
      ['debug', 200],
      ['warn', 422],
      ['error', 500],
    ]);
    expect(requests()[2]?.err?.stack).toMatch(/violates check constraint/);
    expect(service.log).not.toMatch(new RegExp(`S3CRET|${base64('S3CRET')}`));
  },
  SLOW_MS,
);

it(
  'of many that are refused alike the first is a warning without a stack, and their number another',
  async () => {
    await start({ DATABASE_POOL_MAX: '1', QUEUE_MAX: '0' });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const blocked = service.post('get-tuple', { thread_id: 't' });
    await until('it has the connection', async () => {
      await database.sql('select pg_stat_clear_snapshot()');
      const sql = `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
      return (await database.sql(sql)).length > 0;
    });
    const refused = await Promise.all(Array.from({ length: 50 }, () => service.post('put', aPut())));
    expect(refused.map(({ status }) => status)).toEqual(Array(50).fill(503));
    await database.sql('rollback');
    expect((await blocked).status).toBe(200);
    await until('the lines are there', () => requests().length === 51);
    const [first, ...others] = requests().filter(({ res }) => res?.statusCode === 503);
    expect(first).toMatchObject({
      level: 'warn',
      kind: 'queue-full',
      reason: '0 requests wait for a connection already, as many as QUEUE_MAX allows',
    });
    expect(first).not.toHaveProperty('err');
    expect(others.map(({ level }) => level)).toEqual(Array(49).fill('debug'));
    await until('they are summed up', () => lines().some(({ count }) => count !== undefined));
    expect(lines().filter(({ count }) => count !== undefined)).toMatchObject([
      { level: 'warn', kind: 'queue-full', count: 49, msg: '49 more requests were refused: queue-full' },
    ]);
  },
  SLOW_MS,
);

it(
  'an outage is a line when it begins and one when it is over, each repeat is for debug',
  async () => {
    await start({ DATABASE_POOL_MAX: '4' });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answers = Promise.all([1, 2, 3, 4].map((n) => service.post('get-tuple', { thread_id: `${n}` })));
    const killed: unknown[] = [];
    await until('their statements were ended', async () => {
      await database.sql('select pg_stat_clear_snapshot()');
      killed.push(
        ...(await database.sql(
          `select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'`,
        )),
      );
      return killed.length >= 4;
    });
    await until(
      'they are sent again',
      () => lines().filter(({ msg }) => msg.startsWith('sent again')).length >= 4,
    );
    await database.sql('rollback');
    expect((await answers).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    await until('its end is told', () => service.log.includes('the database is back'));
    const told = lines().filter(({ context }) => context === 'database');
    expect(told[0]).toMatchObject({
      level: 'warn',
      msg: expect.stringMatching(/^the database is away, requests wait for it: 57P01 /),
    });
    const repeats = told.filter(({ level }) => level === 'debug');
    expect(repeats.filter(({ msg }) => !/^sent again in \d+ ms: 57P01 /.test(msg))).toEqual([]);
    const ends = told.filter(({ msg }) => msg.startsWith('the database is back'));
    expect(ends).toHaveLength(1);
    expect(ends[0]).toMatchObject({
      level: 'warn',
      msg: expect.stringMatching(
        new RegExp(
          `^the database is back after \\d+ ms; statements were sent again ${repeats.length} times$`,
        ),
      ),
    });
    expect(told.filter(({ level }) => level === 'warn')).toHaveLength(2);
  },
  SLOW_MS,
);
