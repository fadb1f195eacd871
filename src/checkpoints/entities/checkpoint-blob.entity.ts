import { Column, Entity, Index, PrimaryColumn } from 'typeorm';

const PKEY = { collation: 'C', primaryKeyConstraintName: 'checkpoint_blobs_pkey' };

@Entity('checkpoint_blobs')
@Index('checkpoint_blobs_thread_id_idx', ['threadId'])
export class CheckpointBlobEntity {
  @PrimaryColumn('text', { name: 'thread_id', ...PKEY })
  threadId!: string;

  @PrimaryColumn('text', { name: 'checkpoint_ns', default: '', ...PKEY })
  checkpointNs!: string;

  @PrimaryColumn('text', PKEY)
  channel!: string;

  @PrimaryColumn('text', PKEY)
  version!: string;

  @Column('text')
  type!: string;

  @Column('bytea', { nullable: true })
  blob!: Buffer | null;
}
