import { Module } from '@nestjs/common';
import { CheckpointRepository } from './checkpoint.repository.js';
import { CheckpointsController } from './checkpoints.controller.js';
import { ThreadRepository } from './thread.repository.js';
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
  controllers: [CheckpointsController],
  providers: [
    CheckpointRepository,
    ThreadRepository,
    GetTupleUseCase,
    PutUseCase,
    PutWritesUseCase,
    ListUseCase,
    DeleteThreadUseCase,
    CopyThreadUseCase,
    DeleteForRunsUseCase,
    PruneUseCase,
    DeltaChannelHistoryUseCase,
  ],
})
export class CheckpointsModule {}
