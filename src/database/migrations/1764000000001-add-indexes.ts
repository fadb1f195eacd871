import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/**
 * The savers' indexes on thread_id; one that finds the checkpoints of a run; on adopted tables one that finds the latest
 * checkpoint byte by byte. Built concurrently, since adopted tables may be large and in use; hence without a transaction,
 * each step repeatable.
 */
export class AddIndexes1764000000001 implements MigrationInterface {
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    for (const table of ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes']) {
      await createIndex(runner, `${table}_thread_id_idx`, table, '(thread_id)');
    }
    if (!(await hasByteOrder(runner))) {
      await createIndex(
        runner,
        'checkpoints_byte_order_idx',
        'checkpoints',
        '(thread_id, checkpoint_ns, checkpoint_id collate "C")',
      );
    }
    // By a hash, since metadata is the callers', and a run_id may be longer than an index entry.
    await createIndex(
      runner,
      'checkpoints_run_id_idx',
      'checkpoints',
      `(pg_catalog.hashtextextended(metadata ->> 'run_id', 0::bigint)) where metadata ->> 'run_id' is not null`,
    );
    // The versions of the Python saver's migrations; the JavaScript saver's 0 to 4 are the same.
    await runner.query(`
      insert into ${schemaOf(runner)}.checkpoint_migrations (v)
      select pg_catalog.generate_series(0, 9)
          on conflict do nothing`);
  }

  /** The savers' own indexes stay: an adopted database had them before. TypeORM reverts in a transaction, always. */
  async down(runner: QueryRunner): Promise<void> {
    for (const index of ['checkpoints_byte_order_idx', 'checkpoints_run_id_idx']) {
      await runner.query(`drop index if exists ${schemaOf(runner)}.${index}`);
    }
  }
}

/** Whether checkpoint ids are declared with collation C, so that the primary key is in byte order. */
async function hasByteOrder(runner: QueryRunner): Promise<boolean> {
  const rows = (await runner.query(
    `select 1
       from pg_catalog.pg_attribute
      where attrelid operator(pg_catalog.=) $1::regclass::oid and attname operator(pg_catalog.=) 'checkpoint_id'
        and attcollation operator(pg_catalog.=) 'pg_catalog."C"'::regcollation::oid`,
    [`${schemaOf(runner)}.checkpoints`],
  )) as unknown[];
  return rows.length > 0;
}

/** A concurrent build that was interrupted leaves an invalid index, which `if not exists` would take for done. */
export async function createIndex(
  runner: QueryRunner,
  name: string,
  table: string,
  columns: string,
): Promise<void> {
  const schema = schemaOf(runner);
  const invalid = (await runner.query(
    `select 1 from pg_catalog.pg_index
      where indexrelid operator(pg_catalog.=) pg_catalog.to_regclass($1)::oid and not indisvalid`,
    [`${schema}.${name}`],
  )) as unknown[];
  if (invalid.length > 0) await runner.query(`drop index concurrently ${schema}.${name}`);
  await runner.query(`create index concurrently if not exists ${name} on ${schema}.${table} ${columns}`);
}
