import type { MigrationInterface, QueryRunner } from 'typeorm';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';
import { createIndex } from './1764000000001-add-indexes.js';

/**
 * For a list of a thread without a namespace: its newest checkpoints are found by their order, not by sorting the thread.
 * Subgraphs have a namespace each, so the primary key, which has them in front, is of no help.
 */
export class AddThreadOrderIndex1764000000002 implements MigrationInterface {
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await createIndex(
      runner,
      'checkpoints_thread_order_idx',
      'checkpoints',
      '(thread_id, checkpoint_id collate "C", checkpoint_ns collate "C")',
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop index if exists ${schemaOf(runner)}.checkpoints_thread_order_idx`);
  }
}
