import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';

const MIB = 1024 * 1024;
const idOf = (n: number) => String(n).padStart(8, '0');

describe('histories of long chains', () => {
  let app: TestApp;
  let thread_id: string;
  beforeAll(async () => {
    app = await startApp({ TUPLE_LIMIT_BYTES: String(MIB) });
  });
  afterAll(() => app.close());
  beforeEach(() => {
    thread_id = aThread();
  });

  /** Checkpoints 1 to `length`, each the parent of the next one, with a write to `log` each. */
  const chain = async (length: number, metadata = '{}') => {
    await app.database.sql(
      `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
       select $1, '', lpad(n::text, 8, '0'), case when n > 1 then lpad((n - 1)::text, 8, '0') end,
              '{"v": 4, "channel_values": {}, "channel_versions": {"log": "1"}}', $3::jsonb
         from generate_series(1, $2::int) as n`,
      [thread_id, length, metadata],
    );
    await app.database.sql(
      `insert into checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
       select $1, '', lpad(n::text, 8, '0'), 'task', 0, 'log', 't', 'x', '' from generate_series(1, $2::int) as n`,
      [thread_id, length],
    );
  };
  const history = (channels: string[], checkpoint_id: string | null = null) =>
    app.post('delta-channel-history', { thread_id, checkpoint_id, channels });
  const written = ({ writes }: { writes: { checkpoint_id: string }[] }) => writes.map((w) => w.checkpoint_id);
  const temporaryBytes = async () => {
    await app.database.sql('select pg_stat_force_next_flush()').catch(() => []);
    const [row] = await app.database.sql<{ bytes: number }>(
      'select temp_bytes::float8 as bytes from pg_stat_database where datname = current_database()',
    );
    return row?.bytes ?? 0;
  };

  it.each([15, 16, 17, 79, 80, 81, 82, 2000])('of %i ancestors are whole and in order', async (length) => {
    await chain(length + 1);
    const expected = Array.from({ length }, (_, n) => idOf(n + 1));
    expect(written((await history(['log'])).json.log)).toEqual(expected);
    expect(written((await history(['log', 'other'], idOf(length))).json.log)).toEqual(expected.slice(0, -1));
  });

  it.each([1, 15, 16, 17, 18, 80, 81, 500])('end at a seed that is %i ancestors away', async (distance) => {
    await chain(600);
    const seed = 600 - distance;
    await app.database.sql(
      `update checkpoints set checkpoint = '{"channel_values": {"log": [1.0]}}' where thread_id = $1 and checkpoint_id in ($2, $3)`,
      [thread_id, idOf(seed), idOf(seed - 5)],
    );
    const { log, other } = (await history(['log', 'other'])).json;
    expect(log.seed).toEqual({ value: [1] });
    expect(written(log)).toEqual(Array.from({ length: distance }, (_, n) => idOf(seed + n)));
    expect(other).toEqual({ writes: [] });
  });

  it.each([1, 2, 16, 40, 100])('end in a circle of %i parents, each of which counts once', async (length) => {
    await chain(200);
    await app.database.sql(
      'update checkpoints set parent_checkpoint_id = $2 where thread_id = $1 and checkpoint_id = $3',
      [thread_id, idOf(100 + length - 1), idOf(100)],
    );
    const expected = Array.from({ length: 100 }, (_, n) => idOf(100 + n));
    expect(written((await history(['log'])).json.log)).toEqual(expected);
  });

  it('take 256 channels, of which one that is there twice counts once', async () => {
    await chain(3);
    const channels = Array.from({ length: 256 }, (_, n) => `c${n}`);
    expect(Object.keys((await history([...channels, ...channels, ...channels])).json)).toEqual(channels);
    expect((await history([...channels, 'one more'])).json).toMatchObject({
      type: '/problems/invalid-request',
      errors: [{ pointer: '#/channels', detail: 'must not hold more than 256 of them' }],
    });
  });

  it('carry no names of channels along: no temporary files', async () => {
    await chain(2000);
    const names = Array.from({ length: 64 }, (_, n) => `${n} ${'x'.repeat(60_000)}`);
    const before = await temporaryBytes();
    expect((await history([...names, 'log'])).json.log.writes).toHaveLength(1999);
    expect((await temporaryBytes()) - before).toBeLessThan(20 * MIB);
  });

  it('over TUPLE_LIMIT_BYTES are refused, whether a few long writes or many short ones', async () => {
    const write = (checkpoint_id: string, bytes: number) =>
      app.post(
        'put-writes',
        aPutWrites({
          thread_id,
          checkpoint_id,
          writes: [aWrite({ channel: 'log', blob: base64('x'.repeat(bytes)) })],
        }),
      );
    for (const [id, parent] of [
      ['1', null],
      ['2', '1'],
      ['3', '2'],
    ] as const)
      await app.post('put', aPut({ thread_id, checkpoint_id: id, parent_checkpoint_id: parent }));
    await write('1', 0.4 * MIB);
    expect((await history(['log'])).status).toBe(200);
    await write('2', 0.4 * MIB);
    const limited = {
      status: 413,
      json: {
        type: '/problems/limit-exceeded',
        detail: `The answer is over the limit TUPLE_LIMIT_BYTES = ${MIB}`,
      },
    };
    expect(await history(['log'])).toMatchObject(limited);
    expect((await history(['other'])).status).toBe(200);
    await chain(12_000);
    expect(await history(['log'], idOf(12_000))).toMatchObject(limited);
  });

  it('with a value that the line breaks of its Base64 make too long leave no transaction open', async () => {
    await chain(2);
    const blob = base64(Buffer.alloc(0.745 * MIB));
    const writes = [aWrite({ channel: 'log', blob })];
    await app.post('put-writes', aPutWrites({ thread_id, checkpoint_id: idOf(1), writes }));
    expect([200, 413]).toContain((await history(['log'])).status);
    const open = await app.database.sql(
      `select from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`,
    );
    expect(open).toEqual([]);
  });

  it('are kept by prune, however many names the metadata has', async () => {
    const counters = Object.fromEntries(
      Array.from({ length: 50_000 }, (_, n) => [`channel number ${n}`, [1, 1]]),
    );
    await chain(2000);
    await app.database.sql(
      'update checkpoints set metadata = $2 where thread_id = $1 and checkpoint_id = $3',
      [thread_id, JSON.stringify({ counters_since_delta_snapshot: counters }), idOf(2000)],
    );
    const before = await temporaryBytes();
    expect((await app.post('prune', { thread_ids: [thread_id], strategy: 'keep_latest' })).status).toBe(204);
    expect((await temporaryBytes()) - before).toBeLessThan(20 * MIB);
    expect((await history(['log'])).json.log.writes).toHaveLength(1999);
  });

  it.each([1, 256])('are kept by prune up to the last seed of %i channels', async (count) => {
    const names = Array.from({ length: count }, (_, n) => `c${n}`);
    await chain(300);
    await app.database.sql(
      'update checkpoints set metadata = $2 where thread_id = $1 and checkpoint_id = $3',
      [
        thread_id,
        JSON.stringify({ counters_since_delta_snapshot: Object.fromEntries(names.map((name) => [name, 1])) }),
        idOf(300),
      ],
    );
    await app.database.sql(
      'update checkpoints set checkpoint = $2 where thread_id = $1 and checkpoint_id = $3',
      [
        thread_id,
        JSON.stringify({ channel_values: Object.fromEntries(names.map((name) => [name, 1])) }),
        idOf(200),
      ],
    );
    expect((await app.post('prune', { thread_ids: [thread_id], strategy: 'keep_latest' })).status).toBe(204);
    const rows = await app.database.sql<{ id: string; parent: string | null }>(
      'select checkpoint_id as id, parent_checkpoint_id as parent from checkpoints where thread_id = $1 order by 1',
      [thread_id],
    );
    expect(rows.map(({ id }) => id)).toEqual(Array.from({ length: 101 }, (_, n) => idOf(200 + n)));
    expect(rows.map(({ parent }) => parent)).toEqual([null, ...rows.slice(0, -1).map(({ id }) => id)]);
  });
});
