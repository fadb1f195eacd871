import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/**
 * The trigger of `api_keys` named its function as `format`, so whoever may create functions in a schema of the search path
 * had one of theirs called by every role that changes a key.
 */
export class QualifyKeyTrigger1764000000007 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create or replace function ${schemaOf(runner)}.api_keys_changed() returns trigger language plpgsql
         set search_path = pg_catalog, pg_temp as $$
      begin
        execute pg_catalog.format('update %I.api_keys_version set version = version + 1', tg_table_schema);
        return null;
      end $$`);
  }

  /** Nothing leans on the way it was. */
  async down(): Promise<void> {
    return Promise.resolve();
  }
}
