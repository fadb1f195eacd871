import { Column, Entity, Index, PrimaryColumn } from 'typeorm';

const PKEY = { collation: 'C', primaryKeyConstraintName: 'checkpoints_pkey' };

@Entity('checkpoints')
@Index('checkpoints_thread_id_idx', ['threadId'])
@Index('checkpoints_thread_order_idx', ['threadId', 'checkpointId', 'checkpointNs'])
export class CheckpointEntity {
  @PrimaryColumn('text', { name: 'thread_id', ...PKEY })
  threadId!: string;

  @PrimaryColumn('text', { name: 'checkpoint_ns', default: '', ...PKEY })
  checkpointNs!: string;

  @PrimaryColumn('text', { name: 'checkpoint_id', ...PKEY })
  checkpointId!: string;

  @Column({ type: 'text', name: 'parent_checkpoint_id', collation: 'C', nullable: true })
  parentCheckpointId!: string | null;

  /** The mark of `jsonb-text.ts`; null in every row that a LangGraph saver wrote. */
  @Column('text', { nullable: true })
  type!: string | null;

  @Column('jsonb')
  checkpoint!: unknown;

  @Column('jsonb', { default: {} })
  metadata!: unknown;
}
