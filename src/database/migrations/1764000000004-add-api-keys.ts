import type { MigrationInterface, QueryRunner } from 'typeorm';
import { refuseRows, schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/**
 * The keys of `AUTH_MODE=keys`, and a number that grows with each change of them, whoever makes it. Its row is locked until
 * the change is committed, so whoever has read a number has read every change up to it.
 */
export class AddApiKeys1764000000004 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await runner.query(`
      create table ${schema}.api_keys (
        id text collate "C" constraint api_keys_pkey primary key,
        tenant text not null,
        name text not null,
        scopes text[] not null,
        hash bytea not null,
        created_at timestamptz not null default pg_catalog.now(),
        expires_at timestamptz,
        revoked_at timestamptz
      )`);
    await runner.query(`create table ${schema}.api_keys_version (version bigint not null)`);
    await runner.query(`insert into ${schema}.api_keys_version values (0)`);
    await runner.query(`
      create function ${schema}.api_keys_changed() returns trigger language plpgsql as $$
      begin
        execute pg_catalog.format('update %I.api_keys_version set version = version + 1', tg_table_schema);
        return null;
      end $$`);
    await runner.query(`
      create trigger api_keys_changed after insert or update or delete or truncate on ${schema}.api_keys
         for each statement execute function ${schema}.api_keys_changed()`);
  }

  async down(runner: QueryRunner): Promise<void> {
    const schema = schemaOf(runner);
    await refuseRows(runner, ['api_keys']);
    await runner.query(`drop table ${schema}.api_keys, ${schema}.api_keys_version`);
    await runner.query(`drop function ${schema}.api_keys_changed`);
  }
}
