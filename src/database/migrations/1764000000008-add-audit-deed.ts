import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';
import { alterWhenFree } from './1764000000003-set-blob-storage.js';

const INDEX = 'audit_log_deed_idx';

/**
 * What a row of the audit log tells of, so that a transaction which is sent again, since nobody was told of its end, is written
 * once. Rows of the last release have none. Without a transaction, since the index is built concurrently: deletes, which write
 * to the table, go on. Each step is repeatable.
 */
export class AddAuditDeed1764000000008 implements MigrationInterface {
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await alterWhenFree(runner, 'audit_log', 'add column if not exists deed text');
    const invalid = (await runner.query(
      `select 1 from pg_catalog.pg_index where indexrelid = pg_catalog.to_regclass($1) and not indisvalid`,
      [`${schema}.${INDEX}`],
    )) as unknown[];
    if (invalid.length > 0) await runner.query(`drop index concurrently ${schema}.${INDEX}`);
    await runner.query(
      `create unique index concurrently if not exists ${INDEX} on ${schema}.audit_log (deed)`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table ${schemaOf(runner)}.audit_log drop column if exists deed`);
  }
}
