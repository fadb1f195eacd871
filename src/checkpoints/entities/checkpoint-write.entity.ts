import { Column, Entity, Index, PrimaryColumn } from 'typeorm';

const PKEY = { primaryKeyConstraintName: 'checkpoint_writes_pkey' };
const TEXT_PKEY = { collation: 'C', ...PKEY };

@Entity('checkpoint_writes')
@Index('checkpoint_writes_thread_id_idx', ['threadId'])
export class CheckpointWriteEntity {
  @PrimaryColumn('text', { name: 'thread_id', ...TEXT_PKEY })
  threadId!: string;

  @PrimaryColumn('text', { name: 'checkpoint_ns', default: '', ...TEXT_PKEY })
  checkpointNs!: string;

  @PrimaryColumn('text', { name: 'checkpoint_id', ...TEXT_PKEY })
  checkpointId!: string;

  @PrimaryColumn('text', { name: 'task_id', ...TEXT_PKEY })
  taskId!: string;

  @PrimaryColumn('integer', PKEY)
  idx!: number;

  @Column('text')
  channel!: string;

  @Column('text', { nullable: true })
  type!: string | null;

  @Column('bytea')
  blob!: Buffer;

  @Column('text', { name: 'task_path', default: '' })
  taskPath!: string;
}
