import { Column, Entity, PrimaryColumn } from 'typeorm';

const PKEY = { primaryKeyConstraintName: 'checkpoint_deltas_pkey' };

/** A version of a value, as operations on the version before: see ../blob-storage/place.ts. */
@Entity('checkpoint_deltas')
export class CheckpointDeltaEntity {
  @PrimaryColumn('text', { name: 'thread_id', collation: 'C', ...PKEY })
  threadId!: string;

  /** Random: the versions of one value have it in common. */
  @PrimaryColumn('bigint', PKEY)
  log!: string;

  /** From 0 on, without a gap. */
  @PrimaryColumn('int', PKEY)
  at!: number;

  @Column('bytea')
  delta!: Buffer;
}
