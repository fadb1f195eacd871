import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CheckpointRepository } from './sql/checkpoint.repository.js';
import { CheckpointsController } from './checkpoints.controller.js';
import { CheckpointBlobEntity } from './entities/checkpoint-blob.entity.js';
import { CheckpointDeltaEntity } from './entities/checkpoint-delta.entity.js';
import { CheckpointWriteEntity } from './entities/checkpoint-write.entity.js';
import { CheckpointEntity } from './entities/checkpoint.entity.js';
import { ThreadRepository } from './sql/thread.repository.js';
import { BatchUseCase } from './use-cases/batch.use-case.js';
import { CopyThreadUseCase } from './use-cases/copy-thread.use-case.js';
import { DeleteForRunsUseCase } from './use-cases/delete-for-runs.use-case.js';
import { DeltaChannelHistoryUseCase } from './use-cases/delta-channel-history.use-case.js';
import { PruneUseCase } from './use-cases/prune.use-case.js';
import { DeleteThreadUseCase } from './use-cases/delete-thread.use-case.js';
import { GetTupleUseCase } from './use-cases/get-tuple.use-case.js';
import { ListUseCase } from './use-cases/list.use-case.js';
import { PutWritesUseCase } from './use-cases/put-writes.use-case.js';
import { PutUseCase } from './use-cases/put.use-case.js';

@Module({
  imports: [
    TypeOrmModule.forFeature([
      CheckpointEntity,
      CheckpointBlobEntity,
      CheckpointWriteEntity,
      CheckpointDeltaEntity,
    ]),
  ],
  controllers: [CheckpointsController],
  providers: [
    CheckpointRepository,
    ThreadRepository,
    GetTupleUseCase,
    PutUseCase,
    PutWritesUseCase,
    BatchUseCase,
    ListUseCase,
    DeleteThreadUseCase,
    CopyThreadUseCase,
    DeleteForRunsUseCase,
    PruneUseCase,
    DeltaChannelHistoryUseCase,
  ],
})
export class CheckpointsModule {}
