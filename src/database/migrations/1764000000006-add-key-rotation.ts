import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

/** A key that replaces another one, which ends after `grace_until` when the new key has been used. */
export class AddKeyRotation1764000000006 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table ${schemaOf(runner)}.api_keys
        add column replaces text,
        add column grace_until timestamptz,
        add column used_at timestamptz`);
  }

  /** A key that was not used yet leaves its predecessor as it is. */
  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table ${schemaOf(runner)}.api_keys
        drop column replaces,
        drop column grace_until,
        drop column used_at`);
  }
}
