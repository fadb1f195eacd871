import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/**
 * The savers' indexes on thread_id, and on adopted tables one that finds the latest checkpoint byte by byte. Built
 * concurrently, since adopted tables may be large and in use; hence without a transaction, each step repeatable.
 */
export class AddThreadIndexes1764000000001 implements MigrationInterface {
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
    // The versions of the Python saver's migrations; the JavaScript saver's 0 to 4 are the same.
    await runner.query(`
      insert into ${schemaOf(runner)}.checkpoint_migrations (v)
      select generate_series(0, 9)
          on conflict do nothing`);
  }

  /** The savers' own indexes stay: an adopted database had them before. TypeORM reverts in a transaction, always. */
  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop index if exists ${schemaOf(runner)}.checkpoints_byte_order_idx`);
  }
}

/** Whether checkpoint ids are declared with collation C, so that the primary key is in byte order. */
async function hasByteOrder(runner: QueryRunner): Promise<boolean> {
  const rows = (await runner.query(
    `select 1
       from pg_attribute
      where attrelid = $1::regclass and attname = 'checkpoint_id'
        and attcollation = '"C"'::regcollation`,
    [`${schemaOf(runner)}.checkpoints`],
  )) as unknown[];
  return rows.length > 0;
}

/** A concurrent build that was interrupted leaves an invalid index, which `if not exists` would take for done. */
async function createIndex(runner: QueryRunner, name: string, table: string, columns: string): Promise<void> {
  const schema = schemaOf(runner);
  const invalid = (await runner.query(
    `select 1 from pg_index where indexrelid = to_regclass($1) and not indisvalid`,
    [`${schema}.${name}`],
  )) as unknown[];
  if (invalid.length > 0) await runner.query(`drop index concurrently ${schema}.${name}`);
  await runner.query(`create index concurrently if not exists ${name} on ${schema}.${table} ${columns}`);
}
