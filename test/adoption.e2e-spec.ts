import { randomUUID } from 'node:crypto';
import type { CheckpointTuple } from '@langchain/langgraph-checkpoint';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { Settings } from '../src/config/env.js';
import { dataSourceOptions, MIGRATION_NAMES, MIGRATIONS_TABLE } from '../src/database/data-source.js';
import { migrate, revert } from '../src/database/migrate.js';
import { inspectServer } from '../src/database/server.js';
import { SHALLOW_MIGRATIONS, SHALLOW_UPSERT_CHECKPOINTS_SQL } from './fixtures/python-saver.js';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, base64 } from './support/builders.js';
import { createDatabase, knowsLocale, type TestDatabase } from './support/database.js';
import { ask, decode, listBySaver, resume } from './support/graph.js';
import { until } from './support/process.js';
import {
  asPythonTuple,
  PYTHON_REQUESTS,
  PYTHON_THREADS,
  pythonSetup,
  readAsPythonSaver,
  storeAsPythonSaver,
} from './support/python-saver.js';
import {
  BYTE_ORDER_INDEX,
  COLUMNS,
  columnsOf,
  INDEXES,
  SAVERS_INDEXES,
  indexesOf,
  relationsOf,
  rowsOf,
  storageOf,
  TABLES,
  versionsOf,
} from './support/schema.js';

const VERSIONS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/** What the test in hand has opened, closed in reverse. */
const opened: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

async function aDatabase(options: Parameters<typeof createDatabase>[0] = { like: 'empty' }) {
  const database = await createDatabase(options);
  opened.push(() => database.drop());
  return database;
}

function aSaver(database: TestDatabase, schema = 'public'): PostgresSaver {
  const pool = new pg.Pool({ connectionString: database.url });
  pool.on('error', () => undefined); // the database may be dropped before the server has seen the end
  const saver = new PostgresSaver(pool, undefined, { schema });
  opened.push(() => saver.end());
  return saver;
}

async function aService(database: TestDatabase, environment: Record<string, string> = {}): Promise<TestApp> {
  const app = await startApp(environment, database);
  opened.push(() => app.close());
  return app;
}

function settingsOf(database: TestDatabase, schema?: string): Settings {
  return new Settings({ AUTH_MODE: 'none', DATABASE_URL: database.url, DATABASE_SCHEMA: schema });
}

function migrated(database: TestDatabase, schema?: string): Promise<string[]> {
  return migrate(settingsOf(database, schema), database.url);
}

function reverted(database: TestDatabase): Promise<string | null> {
  return revert(settingsOf(database), database.url);
}

/** Takes back every migration but the first. */
async function revertedToFirst(database: TestDatabase): Promise<void> {
  for (const name of MIGRATION_NAMES.slice(1).reverse()) expect(await reverted(database)).toBe(name);
}

/** The names under which migrations are recorded as run. */
async function recorded(database: TestDatabase): Promise<string[]> {
  const rows = await database.sql<{ name: string }>(`select name from ${MIGRATIONS_TABLE} order by id`);
  return rows.map(({ name }) => name);
}

/** Whether both savers' setup() run through and leave everything as it is. */
async function expectSetUp(database: TestDatabase): Promise<void> {
  const relations = await relationsOf(database.sql);
  expect(await pythonSetup(database.sql)).toEqual([]);
  await aSaver(database).setup();
  expect(await relationsOf(database.sql)).toEqual(relations);
  expect(await columnsOf(database.sql)).toEqual(COLUMNS);
  expect(await versionsOf(database.sql)).toEqual(VERSIONS);
}

describe('a new database', () => {
  it('gets the tables, indexes and versions that the savers know, and is complete', async () => {
    const database = await aDatabase();
    expect(await migrated(database)).toEqual(MIGRATION_NAMES);
    expect(await columnsOf(database.sql)).toEqual(COLUMNS);
    expect(await indexesOf(database.sql)).toEqual(INDEXES);
    expect(await versionsOf(database.sql)).toEqual(VERSIONS);
    expect(await recorded(database)).toEqual(MIGRATION_NAMES);
    await expectSetUp(database);
    expect(await migrated(database)).toEqual([]);
    expect(await indexesOf(database.sql)).toEqual(INDEXES);
  });

  it('declares ids in byte order', async () => {
    const { sql } = await aDatabase({ like: 'template' });
    const rows = await sql<{ name: string }>(
      `select attrelid::regclass || '.' || attname as name
         from pg_attribute
        where attrelid = any($1::regclass[]) and attnum > 0 and attcollation <> 0
          and attcollation <> '"C"'::regcollation
        order by 1`,
      [TABLES],
    );
    expect(rows.map(({ name }) => name)).toEqual([
      'checkpoint_blobs.type',
      'checkpoint_writes.channel',
      'checkpoint_writes.task_path',
      'checkpoint_writes.type',
      'checkpoints.type',
    ]);
  });

  it("leaves TypeORM's schema builder nothing to change", async () => {
    const database = await aDatabase({ like: 'template' });
    const settings = settingsOf(database);
    const server = await inspectServer(settings, database.url);
    const dataSource = new DataSource(dataSourceOptions(settings, database.url, server));
    await dataSource.initialize();
    opened.push(() => dataSource.destroy());
    const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
    expect(upQueries.map(({ query }) => query)).toEqual([]);
  });
});

describe('a database of the JavaScript PostgresSaver', () => {
  /**
   * A database as the saver's release with that last migration left it. Its later migrations only add tables (and a
   * fourth lifts a restriction that the third does not make), so taking these away leads back.
   */
  async function aJavaScriptDatabase(version: number): Promise<TestDatabase> {
    const database = await aDatabase();
    const saver = aSaver(database);
    await saver.setup();
    for (const thread of ['waiting', 'finished']) await ask(saver, thread);
    await resume(saver, 'finished');
    for (let v = 4; v > version; v -= 1) {
      const table = { 1: 'checkpoints', 2: 'checkpoint_blobs', 3: 'checkpoint_writes' }[v];
      if (table !== undefined) await database.sql(`drop table ${table}`);
      await database.sql('delete from checkpoint_migrations where v = $1', [v]);
    }
    return database;
  }

  it.each([0, 1, 2, 3, 4])('is adopted at version %i, its rows untouched', async (version) => {
    const database = await aJavaScriptDatabase(version);
    const before = await rowsOf(database.sql);
    expect(Object.keys(before)).toEqual(TABLES.slice(0, version));
    expect(Object.values(before).every(({ rows }) => rows.length > 10)).toBe(true);

    expect(await migrated(database)).toEqual(MIGRATION_NAMES);

    expect(await rowsOf(database.sql, before)).toMatchObject(before);
    expect(await columnsOf(database.sql)).toEqual(COLUMNS);
    expect(await indexesOf(database.sql)).toEqual({ ...INDEXES, ...(version > 0 && BYTE_ORDER_INDEX) });
    await expectSetUp(database);
    expect(await migrated(database)).toEqual([]);
  });

  it.each([1, 2, 3, 4])('is read through HTTP as the saver reads it, from version %i', async (version) => {
    const database = await aJavaScriptDatabase(version);
    await migrated(database);
    const saver = aSaver(database);
    const app = await aService(database);
    for (const thread of ['waiting', 'finished']) {
      const known = await listBySaver(saver, thread);
      expect(new Set(known.map(({ config }) => config.configurable?.checkpoint_ns)).size).toBe(2);

      const listed = await app.post('list', { thread_id: thread, include: ['blobs', 'pending_writes'] });
      expect(await Promise.all(listed.json.map((wire: never) => decode(saver, wire)))).toEqual(known);

      for (const { config } of known) {
        const { checkpoint_ns } = config.configurable as { checkpoint_ns: string };
        const latest = await app.post('get-tuple', { thread_id: thread, checkpoint_ns });
        const byId = await app.post('get-tuple', { ...config.configurable });
        expect(await decode(saver, latest.json)).toEqual(
          await saver.getTuple({ configurable: { thread_id: thread, checkpoint_ns } }),
        );
        expect(await decode(saver, byId.json)).toEqual(await saver.getTuple(config));
      }
    }
  });

  it.each([3, 4])('goes on where its agent stopped, adopted at version %i', async (version) => {
    const database = await aJavaScriptDatabase(version);
    await migrated(database);
    const saver = aSaver(database);
    expect(await resume(saver, 'waiting')).toContain('(yes)');
    const app = await aService(database);
    const { json } = await app.post('get-tuple', { thread_id: 'waiting' });
    const latest: CheckpointTuple = await decode(saver, json);
    expect(latest.checkpoint.channel_values.approval).toBe('yes');
  });
});

describe('a database of the Python PostgresSaver', () => {
  async function aPythonDatabase(version: number, options?: Parameters<typeof createDatabase>[0]) {
    const database = await aDatabase(options);
    if (version >= 0) await pythonSetup(database.sql, version);
    await storeAsPythonSaver(database.sql, version);
    return database;
  }

  it.each([-1, ...VERSIONS])('is adopted at version %i, its rows untouched', async (version) => {
    const database = await aPythonDatabase(version);
    const before = await rowsOf(database.sql);
    expect(Object.keys(before)).toEqual(TABLES.slice(0, Math.max(version, 0)));
    expect(Object.values(before).every(({ rows }) => rows.length > 10)).toBe(true);

    expect(await migrated(database)).toEqual(MIGRATION_NAMES);

    expect(await rowsOf(database.sql, before)).toMatchObject(before);
    expect(await columnsOf(database.sql)).toEqual(COLUMNS);
    expect(await indexesOf(database.sql)).toEqual({ ...INDEXES, ...(version > 0 && BYTE_ORDER_INDEX) });
    await expectSetUp(database);
    expect(await migrated(database)).toEqual([]);
  });

  it.each([1, 2, 3, 8, 9])('is read through HTTP as the saver reads it, from version %i', async (version) => {
    const database = await aPythonDatabase(version);
    await migrated(database);
    const app = await aService(database);
    for (const thread of PYTHON_THREADS) {
      const sent = PYTHON_REQUESTS.filter(({ operation, body }) => {
        return operation === 'put' && body.thread_id === thread;
      });
      const known = await readAsPythonSaver(database.sql, thread);
      expect(known).toHaveLength(new Set(sent.map(({ body }) => body.checkpoint_id)).size);
      expect(known.some(({ values }) => values.length > 0)).toBe(version >= 2);
      expect(known.some(({ writes }) => writes.length > 0)).toBe(version >= 3);

      const listed = await app.post('list', { thread_id: thread });
      const found = await Promise.all(
        (listed.json as { checkpoint_ns: string; checkpoint_id: string }[]).map(async (key) =>
          asPythonTuple(
            await app.post('get-tuple', {
              thread_id: thread,
              checkpoint_ns: key.checkpoint_ns,
              checkpoint_id: key.checkpoint_id,
              include: ['blobs', 'pending_writes'],
            }),
          ),
        ),
      );
      expect(found).toEqual(known);
    }
  });

  it('takes writes of releases before and after task_path', async () => {
    const database = await aPythonDatabase(3);
    await migrated(database);
    for (const version of [8, 9]) {
      await database.sql('truncate checkpoint_writes');
      await storeAsPythonSaver(database.sql, version);
      const paths = await database.sql<{ path: string }>(
        'select distinct task_path as path from checkpoint_writes',
      );
      expect(paths.some(({ path }) => path.startsWith('~'))).toBe(version === 9);
    }
  });

  it('stores empty channels where the first releases did not allow them', async () => {
    const database = await aPythonDatabase(3);
    await database.sql('delete from checkpoint_blobs where blob is null');
    await database.sql('alter table checkpoint_blobs alter column blob set not null');
    const before = await rowsOf(database.sql);
    await migrated(database);
    expect(await columnsOf(database.sql)).toEqual(COLUMNS);
    expect(await rowsOf(database.sql, before)).toMatchObject(before);
  });

  it('is adopted once when four instances begin together', async () => {
    const database = await aPythonDatabase(3);
    const before = await rowsOf(database.sql);
    const ran = await Promise.all([1, 2, 3, 4].map(() => migrated(database)));
    expect(ran.filter((names) => names.length > 0)).toEqual([MIGRATION_NAMES]);
    expect(await rowsOf(database.sql, before)).toMatchObject(before);
    expect(await indexesOf(database.sql)).toEqual({ ...INDEXES, ...BYTE_ORDER_INDEX });
  });

  it.each(['checkpoints_thread_id_idx', 'checkpoints_byte_order_idx'])(
    'gets %s again when its build was cut off',
    async (name) => {
      const database = await aPythonDatabase(9);
      await database.sql(`drop index if exists ${name}`);
      // The threads have several checkpoints, so this build fails and leaves an invalid index, as any that is cut off.
      await expect(
        database.sql(`create unique index concurrently ${name} on checkpoints (thread_id)`),
      ).rejects.toThrow('could not create unique index');
      expect(await indexesOf(database.sql)).toMatchObject({ [name]: 'invalid unique (thread_id)' });

      await migrated(database);

      expect(await indexesOf(database.sql)).toEqual({ ...INDEXES, ...BYTE_ORDER_INDEX });
    },
  );
});

describe('the storage of blobs', () => {
  const MIGRATION = 'SetBlobStorage1764000000003';
  const LATER = MIGRATION_NAMES.slice(MIGRATION_NAMES.indexOf(MIGRATION) + 1);
  const DEFAULT = { compression: '', options: null };
  const DEFAULTS = { checkpoint_blobs: DEFAULT, checkpoint_writes: DEFAULT };
  /** Three thousand bytes of prose: too many for a row by Postgres's default, few enough for half a page. */
  const PROSE = 'An agent stores a checkpoint after every step. '.repeat(64).slice(0, 3000);

  async function takenBack(database: TestDatabase): Promise<void> {
    for (const name of [...LATER.toReversed(), MIGRATION]) expect(await reverted(database)).toBe(name);
  }

  async function hasLz4({ sql }: TestDatabase): Promise<boolean> {
    const [row] = await sql<{ lz4: boolean }>(
      "select 'lz4' = any(enumvals) as lz4 from pg_settings where name = 'default_toast_compression'",
    );
    return row!.lz4;
  }

  /** What the migration sets on this server. */
  async function expected(database: TestDatabase): Promise<typeof DEFAULTS | object> {
    const lz4 = { compression: 'l', options: null };
    const inHalfPages = { compression: '', options: ['toast_tuple_target=4080'] };
    return (await hasLz4(database))
      ? { checkpoint_blobs: lz4, checkpoint_writes: lz4 }
      : { checkpoint_blobs: inHalfPages, checkpoint_writes: DEFAULT };
  }

  /** One checkpoint as the JavaScript saver stores it, with two blobs and a write that are large. */
  async function storeBySaver(saver: PostgresSaver, checkpointId: string): Promise<void> {
    const versions = { short: 1, long: 1 };
    const config = await saver.put(
      { configurable: { thread_id: checkpointId, checkpoint_ns: '' } },
      {
        ...{ v: 4, id: checkpointId, ts: '2026-01-01T00:00:00Z', versions_seen: {} },
        channel_values: { short: PROSE, long: PROSE.repeat(100) },
        channel_versions: versions,
      },
      { source: 'loop', step: 1, parents: {} },
      versions,
    );
    await saver.putWrites(config, [['long', PROSE.repeat(100)]], 'task-1');
  }

  /** By which method each blob is compressed, null when it is not. */
  async function compressionOf({ sql }: TestDatabase, threadId: string): Promise<(string | null)[]> {
    const rows = await sql<{ method: string | null }>(
      `select pg_column_compression(blob) as method from checkpoint_blobs where thread_id = $1 order by channel desc`,
      [threadId],
    );
    return rows.map(({ method }) => method);
  }

  it.each(['new', 'adopted'])('is set on %s tables, and taken back', async (kind) => {
    const database = await aDatabase();
    if (kind === 'adopted') await pythonSetup(database.sql);
    await migrated(database);
    expect(await storageOf(database.sql)).toEqual(await expected(database));

    await takenBack(database);
    expect(await storageOf(database.sql)).toEqual(DEFAULTS);
    expect(await migrated(database)).toEqual([MIGRATION, ...LATER]);
    expect(await storageOf(database.sql)).toEqual(await expected(database));
  });

  it('concerns new rows alone, and the saver and the service read both kinds', async () => {
    const database = await aDatabase();
    const saver = aSaver(database);
    await saver.setup();
    await storeBySaver(saver, 'before');
    const before = await rowsOf(database.sql);
    await migrated(database);
    expect(await rowsOf(database.sql, before)).toEqual(before);
    await storeBySaver(saver, 'after');
    expect(await compressionOf(database, 'before')).toEqual(['pglz', 'pglz']);
    expect(await compressionOf(database, 'after')).toEqual(
      (await hasLz4(database)) ? ['lz4', 'lz4'] : [null, 'pglz'],
    );

    const app = await aService(database);
    for (const thread of ['before', 'after']) {
      const { json } = await app.post('get-tuple', { thread_id: thread });
      const known = await saver.getTuple({ configurable: { thread_id: thread } });
      expect(known!.checkpoint.channel_values).toEqual({ short: PROSE, long: PROSE.repeat(100) });
      expect(known!.pendingWrites).toEqual([['task-1', 'long', PROSE.repeat(100)]]);
      expect(await decode(saver, json)).toEqual(known);
    }
  });

  it('stays as somebody else has set it', async () => {
    const database = await aDatabase();
    await pythonSetup(database.sql);
    await database.sql('alter table checkpoint_blobs alter column blob set compression pglz');
    await database.sql('alter table checkpoint_blobs set (toast_tuple_target = 2048)');
    const theirs = { compression: 'p', options: ['toast_tuple_target=2048'] };
    await migrated(database);
    expect(await storageOf(database.sql)).toMatchObject({ checkpoint_blobs: theirs });
    await takenBack(database);
    expect(await storageOf(database.sql)).toMatchObject({ checkpoint_blobs: theirs });
  });

  it('is set without a lock when it is as it should be', async () => {
    const database = await aDatabase({ like: 'template' });
    await database.sql(`delete from ${MIGRATIONS_TABLE} where name = $1`, [MIGRATION]);
    await database.sql('begin');
    await database.sql('lock table checkpoint_blobs, checkpoint_writes');
    expect(await migrated(database)).toEqual([MIGRATION]);
    await database.sql('rollback');
  });

  it('is set on a table in use by short attempts, between which others get through', async () => {
    const database = await aDatabase({ like: 'template' });
    await takenBack(database);
    const isWaiting = async () => {
      const waiting = await database.sql(
        `select 1 from pg_locks where not granted and relation = 'checkpoint_blobs'::regclass`,
      );
      return waiting.length > 0;
    };
    await database.sql('begin');
    await database.sql('lock table checkpoint_blobs in share update exclusive mode');
    const migrating = migrated(database);
    await until('the migration waits', isWaiting);
    await until('it gives way', async () => !(await isWaiting()));
    await until('it tries again', isWaiting);
    await database.sql('commit');
    expect(await migrating).toEqual([MIGRATION, ...LATER]);
    expect(await storageOf(database.sql)).toEqual(await expected(database));
  });
});

describe('ids in byte order, where the locale orders them otherwise', () => {
  const [first, last] = ['B', 'a'];

  /** The index that answers the query for the latest checkpoint, when neither a scan nor a sort may. */
  async function planOf({ sql }: TestDatabase): Promise<{ nodes: string[]; index: string | undefined }> {
    for (const method of ['seqscan', 'bitmapscan', 'sort', 'incremental_sort']) {
      await sql(`set enable_${method} = off`);
    }
    const [explained] = await sql<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(
      `explain (format json)
       select checkpoint_id from checkpoints
        where thread_id = 'thread-1' and checkpoint_ns = ''
        order by checkpoint_id collate "C" desc
        limit 1`,
    );
    const nodes: PlanNode[] = [];
    for (
      let node: PlanNode | undefined = explained!['QUERY PLAN'][0].Plan;
      node !== undefined;
      node = node.Plans?.[0]
    ) {
      nodes.push(node);
    }
    return { nodes: nodes.map((node) => node['Node Type']), index: nodes.at(-1)?.['Index Name'] };
  }

  interface PlanNode {
    'Node Type': string;
    'Index Name'?: string;
    Plans?: PlanNode[];
  }

  it.each([
    { name: 'adopted', adopted: true, index: 'checkpoints_byte_order_idx' },
    { name: 'new', adopted: false, index: 'checkpoints_pkey' },
  ])('are found by an index in $name tables', async ({ adopted, index }) => {
    if (!(await knowsLocale('en-US'))) {
      console.log(
        'Left out: Postgres 14 has the locales of its system alone, and that one has no en_US.utf8',
      );
      return;
    }
    const database = await aDatabase({ like: 'empty', locale: 'en-US' });
    if (adopted) await pythonSetup(database.sql);
    await migrated(database);
    const [compared] = await database.sql<{ otherwise: boolean }>('select $1::text > $2::text as otherwise', [
      first,
      last,
    ]);
    expect(compared).toEqual({ otherwise: true });

    const app = await aService(database);
    for (const id of [last, first]) {
      expect((await app.post('put', aPut({ checkpoint_id: id }))).status).toBe(200);
    }
    const latest = await app.post('get-tuple', { thread_id: 'thread-1' });
    expect(latest.json.checkpoint_id).toBe(last);
    const ids = async (body: object) =>
      ((await app.post('list', { thread_id: 'thread-1', ...body })).json as { checkpoint_id: string }[]).map(
        ({ checkpoint_id }) => checkpoint_id,
      );
    expect(await ids({})).toEqual([last, first]);
    expect(await ids({ before_checkpoint_id: last })).toEqual([first]);
    expect(await ids({ before_checkpoint_id: first })).toEqual([]);

    const plan = await planOf(database);
    expect(plan.index).toBe(index);
    expect(plan.nodes).not.toContain('Sort');
    expect(Object.keys(await indexesOf(database.sql)).includes('checkpoints_byte_order_idx')).toBe(adopted);
  });
});

describe('columns of other types than the savers make', () => {
  const WRITE = { task_id: 'task-1', channel: 'c', type: 't', blob: base64('b') };

  it.each([
    ['checkpoint_writes', 'idx', 'bigint'],
    ['checkpoint_writes', 'idx', 'smallint'],
    ['checkpoint_writes', 'idx', 'numeric'],
    ['checkpoint_writes', 'task_id', 'varchar(100)'],
    ['checkpoint_writes', 'task_path', 'varchar'],
    ['checkpoint_blobs', 'type', 'varchar'],
    ['checkpoint_blobs', 'version', 'varchar'],
    ['checkpoints', 'checkpoint_ns', 'varchar'],
    ['checkpoints', 'checkpoint', 'json'],
    ['checkpoints', 'metadata', 'json'],
  ])('%s.%s as %s is read as it is otherwise', async (table, column, type) => {
    const database = await aDatabase();
    await pythonSetup(database.sql);
    if (type === 'json') await database.sql(`alter table ${table} alter column ${column} drop default`);
    await database.sql(`alter table ${table} alter column ${column} type ${type}`);
    const answers = [];
    for (const environment of [{ FAST_PATH: 'true' }, { FAST_PATH: 'false' }]) {
      const app = await aService(database, environment);
      if (answers.length === 0) await migrated(database);
      const checkpoint = { channel_versions: { c: '1' } };
      const blobs = [{ channel: 'c', version: '1', type: 't', blob: base64('b') }];
      for (const checkpoint_id of ['1', '2']) {
        const parent_checkpoint_id = checkpoint_id === '2' ? '1' : null;
        const put = aPut({ checkpoint_id, parent_checkpoint_id, checkpoint, blobs, metadata: { keep: 1 } });
        expect((await app.post('put', put)).status).toBe(200);
        const writes = [
          { ...WRITE, idx: -4 },
          { ...WRITE, idx: 0, channel: '__pregel_tasks' },
        ];
        expect((await app.post('put-writes', aPutWrites({ checkpoint_id, writes }))).status).toBe(204);
      }
      const include = ['blobs', 'pending_writes', 'pending_sends'];
      const tuple = await app.post('get-tuple', { thread_id: 'thread-1', include });
      expect(tuple.json).toMatchObject({
        checkpoint,
        metadata: { keep: 1 },
        blobs,
        pending_writes: [{ idx: -4 }, { idx: 0 }],
        pending_sends: [{ idx: 0 }],
      });
      const body = { thread_id: 'thread-1', limit: 1, include, filter_metadata: { keep: 1 } };
      expect((await app.post('list', body)).json).toEqual([tuple.json]);
      answers.push(tuple.text);
    }
    expect(answers[0]).toBe(answers[1]);
  });
});

describe('a database that cannot be adopted', () => {
  /** All but the service's bookkeeping, empty: TypeORM makes that before the first migration can refuse. */
  async function theirRelations(database: TestDatabase): Promise<string[]> {
    const relations = await relationsOf(database.sql);
    return relations.filter(
      (name) => !/^public\.(checkpoint_backend_migrations(_id_seq)?|PK_\w+)$/.test(name),
    );
  }

  it("refuses ShallowPostgresSaver's tables and leaves them alone", async () => {
    const database = await aDatabase();
    for (const statement of SHALLOW_MIGRATIONS) await database.sql(statement);
    await database.sql(
      SHALLOW_UPSERT_CHECKPOINTS_SQL.replace('%s, %s, %s, %s', `'thread-1', '', '{"id": "1"}', '{}'`),
    );
    const before = { rows: await rowsOf(database.sql), columns: await columnsOf(database.sql) };
    const relations = await theirRelations(database);

    await expect(migrated(database)).rejects.toThrow(
      'The table "public".checkpoints is not one of LangGraph\'s PostgresSaver: it lacks checkpoint_id',
    );

    expect({ rows: await rowsOf(database.sql), columns: await columnsOf(database.sql) }).toEqual(before);
    expect(await theirRelations(database)).toEqual(relations);
    await expect(migrated(database)).rejects.toThrow('Choose another DATABASE_SCHEMA');
  });

  it('refuses a table with another primary key and leaves it alone', async () => {
    const database = await aDatabase();
    await pythonSetup(database.sql, 3);
    await database.sql('alter table checkpoint_writes drop constraint checkpoint_writes_pkey');
    await database.sql('alter table checkpoint_writes add primary key (thread_id, task_id)');
    const [relations, columns] = [await theirRelations(database), await columnsOf(database.sql)];

    await expect(migrated(database)).rejects.toThrow(
      'The table "public".checkpoint_writes is not one of LangGraph\'s PostgresSaver: ' +
        'its primary key is (thread_id, task_id), not (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)',
    );

    expect(await theirRelations(database)).toEqual(relations);
    await expect(migrated(database)).rejects.toThrow('Choose another DATABASE_SCHEMA');
    expect(await columnsOf(database.sql)).toEqual(columns);
  });

  it('refuses an encoding that cannot hold every text', async () => {
    const database = await aDatabase();
    const name = `${new URL(database.url).pathname.slice(1)}_ascii`;
    await database.sql(`create database ${name} template template0 encoding 'SQL_ASCII' locale 'C'`);
    opened.push(async () => {
      await database.sql(`drop database ${name} with (force)`);
    });
    const url = new URL(name, database.url).href;
    await expect(migrate(new Settings({ AUTH_MODE: 'none', DATABASE_URL: url }), url)).rejects.toThrow(
      "The database's encoding must be UTF8; it is SQL_ASCII",
    );
  });
});

describe('DATABASE_SCHEMA', () => {
  it('is made when absent, and holds every table', async () => {
    const database = await aDatabase();
    expect(await migrated(database, 'Agents_1')).toEqual(MIGRATION_NAMES);
    expect(await migrated(database, 'Agents_1')).toEqual([]);
    expect(await columnsOf(database.sql, '"Agents_1"')).toEqual(COLUMNS);
    expect(await indexesOf(database.sql, '"Agents_1"')).toEqual(INDEXES);
    expect(await versionsOf(database.sql, 'Agents_1')).toEqual(VERSIONS);
    const relations = await relationsOf(database.sql);
    expect(relations).toContain(`Agents_1.${MIGRATIONS_TABLE}`);
    expect(relations.filter((name) => !name.startsWith('Agents_1.'))).toEqual([]);
  });

  it('keeps services apart that share a database', async () => {
    const database = await aDatabase();
    const schemas = ['public', 'agents', 'Agents'];
    const services = await Promise.all(
      schemas.map(async (schema) => {
        await migrated(database, schema);
        return aService(database, { DATABASE_SCHEMA: schema });
      }),
    );
    for (const [n, app] of services.entries()) {
      expect((await app.get('/health/ready')).status).toBe(200);
      const answers = [
        await app.post('put', aPut({ metadata: { schema: schemas[n] }, blobs: [aBlob(schemas[n]!)] })),
        await app.post('put-writes', aPutWrites()),
      ];
      expect(answers.map(({ status }) => status)).toEqual([200, 204]);
    }
    await services[2]!.post('delete-thread', { thread_id: 'thread-1' });
    const found = await Promise.all(
      services.map(async (app) => (await app.post('get-tuple', { thread_id: 'thread-1' })).json),
    );
    expect(found).toEqual([
      expect.objectContaining({ metadata: { schema: 'public' }, blobs: [aBlob('public')] }),
      expect.objectContaining({ metadata: { schema: 'agents' }, blobs: [aBlob('agents')] }),
      null,
    ]);
  });

  it('adopts the tables that a saver made there, and no others', async () => {
    const database = await aDatabase();
    const saver = aSaver(database, 'agents');
    await saver.setup();
    await ask(saver, 'waiting');
    await migrated(database, 'agents');
    expect(await indexesOf(database.sql, 'agents')).toEqual({ ...INDEXES, ...BYTE_ORDER_INDEX });
    expect((await relationsOf(database.sql)).filter((name) => !name.startsWith('agents.'))).toEqual([]);
    const app = await aService(database, { DATABASE_SCHEMA: 'agents' });
    const { json } = await app.post('list', { thread_id: 'waiting', include: ['blobs', 'pending_writes'] });
    expect(await Promise.all(json.map((wire: never) => decode(saver, wire)))).toEqual(
      await listBySaver(saver, 'waiting'),
    );
  });

  function aBlob(text: string) {
    return { channel: 'messages', version: '1', type: 'bytes', blob: base64(text) };
  }

  // The blob above is read only when the checkpoint names its version.
  function aPut(fields: Record<string, unknown>) {
    return {
      thread_id: 'thread-1',
      checkpoint_id: 'checkpoint-1',
      checkpoint: { v: 4, channel_versions: { messages: '1' } },
      ...fields,
    };
  }
});

describe('revert', () => {
  it('takes back what adoption added beside the tables, and can be run again', async () => {
    const database = await aDatabase();
    await pythonSetup(database.sql);
    await storeAsPythonSaver(database.sql, 9);
    const before = await rowsOf(database.sql);
    await migrated(database);

    await revertedToFirst(database);

    expect(await indexesOf(database.sql)).toEqual(SAVERS_INDEXES);
    expect(await recorded(database)).toEqual(MIGRATION_NAMES.slice(0, 1));
    expect(await rowsOf(database.sql, before)).toEqual(before);

    expect(await migrated(database)).toEqual(MIGRATION_NAMES.slice(1));
    expect(await indexesOf(database.sql)).toEqual({ ...INDEXES, ...BYTE_ORDER_INDEX });
  });

  it.each(TABLES)('refuses to drop the tables while %s holds a row', async (table) => {
    const database = await aDatabase();
    await pythonSetup(database.sql);
    await storeAsPythonSaver(database.sql, 9);
    for (const other of TABLES.filter((name) => name !== table)) await database.sql(`truncate ${other}`);
    await migrated(database);
    await revertedToFirst(database);
    const before = await rowsOf(database.sql);

    await expect(reverted(database)).rejects.toThrow(`Not reverted: "public".${table} holds rows`);

    expect(await rowsOf(database.sql)).toEqual(before);
    expect(await recorded(database)).toEqual(MIGRATION_NAMES.slice(0, 1));
    expect(await migrated(database)).toEqual(MIGRATION_NAMES.slice(1));
  });

  it.each([
    ['api_keys', `insert into api_keys (id, tenant, name, scopes, hash) values ('a', '', 'n', '{}', '')`],
    ['audit_log', `insert into audit_log (operation, outcome, detail) values ('put', 'done', '{}')`],
  ])('refuses to drop %s while it holds a row', async (table, insert) => {
    const database = await aDatabase({ like: 'template' });
    await database.sql(insert);
    let fault = '';
    for (let n = 0; n < MIGRATION_NAMES.length && fault === ''; n += 1) {
      await reverted(database).catch((error: unknown) => (fault = String(error)));
    }
    expect(fault).toContain(`Not reverted: "public".${table} holds rows`);
    expect(await database.sql(`select from ${table}`)).toHaveLength(1);
    await database.sql('begin; set local session_replication_role = replica');
    await database.sql(`delete from ${table}; commit`);
    const last = (await recorded(database)).at(-1);
    expect(await reverted(database)).toBe(last);
    expect(await migrated(database)).toContain(last);
  });

  it('takes rows that a policy hides for rows', async () => {
    const database = await aDatabase({ like: 'template' });
    await database.sql(`insert into checkpoint_blobs values ('t', '', 'c', '1', 'x', '')`);
    await revertedToFirst(database);
    const role = `owner_${randomUUID().slice(0, 8)}`;
    await database.sql(`create role ${role} login password 'p'`);
    for (const table of [...TABLES, 'checkpoint_migrations', MIGRATIONS_TABLE]) {
      await database.sql(`alter table ${table} owner to ${role}`);
    }
    await database.sql(`alter table checkpoint_blobs enable row level security`);
    await database.sql(`alter table checkpoint_blobs force row level security`);
    await database.sql(`grant create on schema public to ${role}`);
    const url = Object.assign(new URL(database.url), { username: role, password: 'p' }).href;
    await expect(revert(new Settings({ AUTH_MODE: 'none', DATABASE_URL: url }), url)).rejects.toThrow(
      /row-level security/,
    );
    expect(await database.sql('select from checkpoint_blobs')).toHaveLength(1);
    await database.sql(`reassign owned by ${role} to current_user`);
    await database.sql(`drop owned by ${role}`);
    await database.sql(`drop role ${role}`);
  });

  it('drops the tables when they are empty', async () => {
    const database = await aDatabase({ like: 'template' });
    await revertedToFirst(database);
    expect(await reverted(database)).toBe(MIGRATION_NAMES[0]);
    expect(await reverted(database)).toBeNull();
    expect(await columnsOf(database.sql)).toEqual({});
    expect(await recorded(database)).toEqual([]);
    expect(await migrated(database)).toEqual(MIGRATION_NAMES);
    expect(await indexesOf(database.sql)).toEqual(INDEXES);
  });
});
