import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Per table: the columns that the service reads and writes, and those of the primary key in its order. */
const EXPECTED: Record<string, { columns: string[]; key: string[] }> = {
  checkpoints: {
    columns: [
      'thread_id',
      'checkpoint_ns',
      'checkpoint_id',
      'parent_checkpoint_id',
      'type',
      'checkpoint',
      'metadata',
    ],
    key: ['thread_id', 'checkpoint_ns', 'checkpoint_id'],
  },
  checkpoint_blobs: {
    columns: ['thread_id', 'checkpoint_ns', 'channel', 'version', 'type', 'blob'],
    key: ['thread_id', 'checkpoint_ns', 'channel', 'version'],
  },
  checkpoint_writes: {
    columns: [
      'thread_id',
      'checkpoint_ns',
      'checkpoint_id',
      'task_id',
      'idx',
      'channel',
      'type',
      'blob',
      'task_path',
    ],
    key: ['thread_id', 'checkpoint_ns', 'checkpoint_id', 'task_id', 'idx'],
  },
};

/**
 * LangGraph's four tables, created or completed. Each statement does nothing where a saver's own migration was there
 * before (Python's versions 0 to 9, JavaScript's 0 to 4), and none rewrites a row.
 */
export class AdoptCheckpointTables1764000000000 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await runner.query(`
      create table if not exists ${schema}.checkpoint_migrations (v integer primary key)`);
    // collate "C": the latest checkpoint has the greatest id byte by byte, and only an index in that order finds it.
    await runner.query(`
      create table if not exists ${schema}.checkpoints (
        thread_id text collate "C" not null,
        checkpoint_ns text collate "C" not null default '',
        checkpoint_id text collate "C" not null,
        parent_checkpoint_id text collate "C",
        type text,
        checkpoint jsonb not null,
        metadata jsonb not null default '{}',
        primary key (thread_id, checkpoint_ns, checkpoint_id)
      )`);
    await runner.query(`
      create table if not exists ${schema}.checkpoint_blobs (
        thread_id text collate "C" not null,
        checkpoint_ns text collate "C" not null default '',
        channel text collate "C" not null,
        version text collate "C" not null,
        type text not null,
        blob bytea,
        primary key (thread_id, checkpoint_ns, channel, version)
      )`);
    await runner.query(`
      create table if not exists ${schema}.checkpoint_writes (
        thread_id text collate "C" not null,
        checkpoint_ns text collate "C" not null default '',
        checkpoint_id text collate "C" not null,
        task_id text collate "C" not null,
        idx integer not null,
        channel text not null,
        type text,
        blob bytea not null,
        primary key (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
      )`);
    await runner.query(`alter table ${schema}.checkpoint_blobs alter column blob drop not null`);
    // A constant default is kept in the catalogue: no row is rewritten.
    await runner.query(`
      alter table ${schema}.checkpoint_writes add column if not exists task_path text not null default ''`);
    for (const table of Object.keys(EXPECTED)) await refuseOtherShape(runner, table);
  }

  async down(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await refuseRows(runner, Object.keys(EXPECTED));
    for (const table of [...Object.keys(EXPECTED), 'checkpoint_migrations']) {
      await runner.query(`drop table ${schema}.${table}`);
    }
  }
}

/** The quoted name of the schema that the tables live in. */
export function schemaOf(runner: QueryRunner): string {
  const { options } = runner.dataSource;
  if (options.type !== 'postgres' || options.schema === undefined)
    throw new Error('A Postgres schema is needed');
  return `"${options.schema}"`;
}

/** Locks the tables until the transaction ends. @throws Error when one of them holds rows, which would be lost with it */
export async function refuseRows(runner: QueryRunner, tables: string[]): Promise<void> {
  const schema = schemaOf(runner);
  // Rows that a policy hides are rows: with this, reading past them fails.
  await runner.query('set local row_security = off');
  for (const table of tables) {
    await runner.query(`lock table ${schema}.${table} in access exclusive mode`);
    const rows = (await runner.query(`select 1 from ${schema}.${table} limit 1`)) as unknown[];
    if (rows.length > 0) {
      throw new Error(
        `Not reverted: ${schema}.${table} holds rows, which would be lost. Delete or move them first.`,
      );
    }
  }
}

/** Somebody else's table of the same name, such as ShallowPostgresSaver's, is left alone with a clear message. */
async function refuseOtherShape(runner: QueryRunner, table: string): Promise<void> {
  const { columns, key } = EXPECTED[table] ?? { columns: [], key: [] };
  const name = `${schemaOf(runner)}.${table}`;
  const found = (await runner.query(
    `select array(select attname::text from pg_catalog.pg_attribute
                   where attrelid operator(pg_catalog.=) $1::regclass::oid and attnum operator(pg_catalog.>) 0::int2
                     and not attisdropped) as columns,
            array(select a.attname::text
                    from pg_catalog.pg_index i
                    cross join pg_catalog.unnest(i.indkey::int2[]) with ordinality k (attnum, place)
                    join pg_catalog.pg_attribute a
                      on a.attrelid operator(pg_catalog.=) i.indrelid and a.attnum operator(pg_catalog.=) k.attnum
                   where i.indrelid operator(pg_catalog.=) $1::regclass::oid and i.indisprimary
                   order by k.place) as key`,
    [name],
  )) as [{ columns: string[]; key: string[] }];
  const missing = columns.filter((column) => !found[0].columns.includes(column));
  if (missing.length > 0 || found[0].key.join() !== key.join()) {
    throw new Error(
      `The table ${name} is not one of LangGraph's PostgresSaver: ` +
        (missing.length > 0
          ? `it lacks ${missing.join(', ')}`
          : `its primary key is (${found[0].key.join(', ')}), not (${key.join(', ')})`) +
        '. Choose another DATABASE_SCHEMA.',
    );
  }
}
