import type { MigrationInterface, QueryRunner } from 'typeorm';
import { refuseRows, schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/** Who deleted, copied, or was refused what, with `AUDIT_LOG=table`. Rows are added and nothing else. */
export class AddAuditLog1764000000005 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await runner.query(`
      create table ${schema}.audit_log (
        id bigint generated always as identity primary key,
        at timestamptz not null default pg_catalog.clock_timestamp(),
        request_id text,
        operation text not null,
        outcome text not null,
        tenant text,
        key_id text,
        key_name text,
        subject text,
        detail jsonb not null
      )`);
    await runner.query(`
      create function ${schema}.audit_log_is_append_only() returns trigger language plpgsql as $$
      begin
        raise exception 'audit_log is append-only';
      end $$`);
    await runner.query(`
      create trigger audit_log_is_append_only before update or delete or truncate on ${schema}.audit_log
         for each statement execute function ${schema}.audit_log_is_append_only()`);
  }

  async down(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await refuseRows(runner, ['audit_log']);
    await runner.query(`drop table ${schema}.audit_log`);
    await runner.query(`drop function ${schema}.audit_log_is_append_only`);
  }
}
