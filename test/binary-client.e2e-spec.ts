import { createHash } from 'node:crypto';
import net from 'node:net';
import pg from 'pg';
import { BinaryClient, type Parameter, Pieces, Statement } from '../src/database/binary-client.js';
import { NoRoomError, ReadMemory, type Reading } from '../src/request/read-memory.js';
import { itMerging } from './support/app.js';
import { createDatabase, type TestDatabase } from './support/database.js';

const KB = 1024;
const SIZES = [0, 1, 2, 3, 64 * KB - 1, 64 * KB, 256 * KB, 3 * 1024 * KB + 1];
const LENGTHS = [...SIZES, ...SIZES];
const PIECES = new Pieces([
  Buffer.from('a'),
  Buffer.alloc(64 * KB, 'b'),
  Buffer.from('c'),
  Buffer.alloc(300 * KB, 'd'),
]);

/** A socket that gives what it reads in pieces of so many bytes. */
class PiecewiseSocket extends net.Socket {
  constructor(private readonly bytes: number) {
    super();
  }

  override emit(event: string | symbol, ...values: unknown[]): boolean {
    const [chunk] = values;
    if (event !== 'data' || !(chunk instanceof Buffer))
      return super.emit(event as 'data', ...(values as [Buffer]));
    for (let at = 0; at < chunk.length; at += this.bytes)
      super.emit('data', chunk.subarray(at, at + this.bytes));
    return true;
  }
}

describe('BinaryClient', () => {
  let database: TestDatabase;
  const ends: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    database = await createDatabase({ like: 'empty' });
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });
  afterAll(() => database.drop());

  async function connect(config: pg.ClientConfig = {}): Promise<BinaryClient> {
    const client = new BinaryClient({ connectionString: database.url, ...config });
    await client.connect();
    ends.push(() => client.end());
    return client;
  }

  const binary = async (
    client: pg.Client,
    text: string,
    values: Parameter[] = [],
    name?: string,
    reading?: Reading,
  ) => {
    const statement = new Statement(name, text, values, undefined, undefined, reading);
    await new Promise<void>((resolve, reject) => {
      statement.callback = (error) => {
        if (error === null) resolve();
        else reject(error);
      };
      client.query(statement as never);
    });
    return statement.rows;
  };

  /** Rows of every size, twice, with what stands in them. */
  const ROWS = `
    select n, 'é' || n, null, decode(repeat('07', length), 'hex')
      from unnest($1::int[], $2::int[]) as r (n, length)`;
  const numbers = LENGTHS.map((_, n) => n - 3);
  const PARAMETERS = [`{${numbers.join()}}`, `{${LENGTHS.join()}}`];
  const expected = LENGTHS.map((length, n) => {
    const bytes = Buffer.alloc(length, 7);
    return [n - 3, `é${n - 3}`, null, length < 64 * KB ? bytes.toString('base64') : bytes];
  });
  /** Jest takes seconds to compare Buffers. */
  const comparable = (rows: unknown[][]) =>
    rows.map((row) =>
      row.map((value) => (value instanceof Buffer ? createHash('md5').update(value).digest() : value)),
    );

  it.each([1, 7, 1000, 65_537])('reads rows that arrive in pieces of %i bytes', async (bytes) => {
    const client = await connect({ stream: () => new PiecewiseSocket(bytes) });
    const rows = await binary(client, ROWS, PARAMETERS);
    expect(comparable(rows)).toEqual(comparable(expected));
  });

  it.each([1, 3, 7, 1000, 65_537])(
    'forgets rows for which there is no memory, which arrive in pieces of %i bytes',
    async (bytes) => {
      const client = await connect({ stream: () => new PiecewiseSocket(bytes) });
      const memory = new ReadMemory(64 * KB, {
        roomBytes: () => 0,
        areAnswersHeld: () => true,
        onRefused: () => undefined,
      });
      const few = [`{${SIZES.map((_, n) => n).join()}}`, `{${SIZES.join()}}`];
      await expect(
        binary(client, ROWS, few, undefined, memory.begin({ tenant: '', since: 0 })),
      ).rejects.toThrow(NoRoomError);
      expect(comparable(await binary(client, ROWS, PARAMETERS))).toEqual(comparable(expected));
    },
  );

  it('counts the rows of a statement that may read so much, and of none after it, also when it failed', async () => {
    const client = await connect();
    const memory = new ReadMemory(1024 * KB, {
      roomBytes: () => Infinity,
      areAnswersHeld: () => false,
      onRefused: () => undefined,
    });
    const large = "select repeat('x', 3000000)";
    const reading = memory.begin({ tenant: '', since: 0 });
    await binary(client, large, [], undefined, reading);
    expect(memory.totalBytes).toBeGreaterThan(3_000_000);
    reading.end();
    await expect(
      binary(client, 'select 1 / 0', [], undefined, memory.begin({ tenant: '', since: 0 })),
    ).rejects.toThrow('division');
    await client.query(large);
    expect(memory.totalBytes).toBe(0);
  });

  it('gives each large field memory of its own, which no later statement writes to', async () => {
    const client = await connect();
    const first = await binary(client, ROWS, PARAMETERS);
    const largeOf = (rows: unknown[][]) =>
      rows.flat().filter((value): value is Buffer => value instanceof Buffer);
    for (const bytes of largeOf(await binary(client, ROWS, PARAMETERS))) bytes.fill(9);
    expect(comparable(first)).toEqual(comparable(expected));
    const large = largeOf(first);
    expect(large.length).toBeGreaterThan(1);
    expect(new Set(large.map(({ buffer }) => buffer)).size).toBe(large.length);
  });

  it('answers other statements as pg does, and says what is wrong with one', async () => {
    const client = await connect();
    const notices: unknown[] = [];
    client.on('notice', ({ message }) => notices.push(message));
    await client.query(`do $$ begin raise notice 'look'; end $$`);
    expect(notices).toEqual(['look']);
    const text = `select 1::int8 as a, '{"b":1}'::jsonb as b, '\\x0102'::bytea as c, 'x' as d, null as e`;
    expect((await client.query(text)).rows).toEqual([
      { a: '1', b: { b: 1 }, c: Buffer.from([1, 2]), d: 'x', e: null },
    ]);
    await expect(binary(client, 'select 1 / (3 - n) from generate_series(1, 5) as n')).rejects.toMatchObject({
      code: '22012',
    });
    expect(await binary(client, 'select $1::int', ['2'])).toEqual([[2]]);
  });

  itMerging('reads a prepared statement again, on each connection, also after it failed', async () => {
    const text = `select $1::int / n, n::text, '\\x0102'::bytea from generate_series(1, 2) as n where n > $2::int`;
    for (const client of [await connect(), await connect()]) {
      await expect(binary(client, text.replace('n > ', 'n / 0 > '), ['1', '0'], 'a')).rejects.toMatchObject({
        code: '22012',
      });
      for (const n of [4, 6]) {
        expect(await binary(client, text, [`${n}`, '0'], 'b')).toEqual([
          [n, '1', 'AQI='],
          [n / 2, '2', 'AQI='],
        ]);
        expect(await binary(client, text, [`${n}`, '2'], 'b')).toEqual([]);
        expect(await binary(client, 'select length($1::bytea)', [PIECES], 'd')).toEqual([[364 * KB + 2]]);
        expect(await binary(client, 'set search_path = public', [], 'c')).toEqual([]);
        expect(await binary(client, 'select $1::int', [`${n}`])).toEqual([[n]]);
        expect(await binary(client, 'select $1::text', [`${n}`])).toEqual([[`${n}`]]);
      }
    }
  });

  it('sends pieces like the whole, among other parameters', async () => {
    const text = `select $1::text, $2::text, md5($3::bytea), $4::bytea, $5::int`;
    const client = await connect();
    const [row] = await binary(client, text, ['é', null, PIECES, Buffer.from([1]), '5']);
    const rows = await database.sql('select md5($1::bytea)', [PIECES.toPostgres()]);
    const [{ md5 }] = rows as [{ md5: string }];
    expect(row).toEqual(['é', null, md5, 'AQ==', 5]);
    const plain = new pg.Client({ connectionString: database.url });
    await plain.connect();
    ends.push(() => plain.end());
    expect((await plain.query('select length($1::bytea) as n', [PIECES])).rows).toEqual([
      { n: 364 * KB + 2 },
    ]);
  });
});
