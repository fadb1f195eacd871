import { Body, Controller, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { ServerResponse } from 'node:http';
import type { JsonWithBlobs } from '../http/exact-json/json-with-blobs.js';
import { Audited } from '../auth/audited.js';
import { Settings } from '../config/env.js';
import { BATCH, type BatchBody } from '../http/body/batch-body.js';
import { type Validate, validationPipe, validatorOf } from '../http/validation/validation.js';
import { Metrics } from '../observability/metrics/metrics.js';
import { batchCallerOf, Batched, BatchResponse, readsOf } from './dto/batch.dto.js';
import { ThreadDto } from './dto/checkpoint-key.dto.js';
import { CopyThreadRequest } from './dto/copy-thread.dto.js';
import { DeleteForRunsRequest } from './dto/delete-for-runs.dto.js';
import { ChannelHistoryResponse, DeltaChannelHistoryRequest } from './dto/delta-channel-history.dto.js';
import { PruneRequest } from './dto/prune.dto.js';
import { EXAMPLES } from './dto/examples.js';
import { GetTupleRequest } from './dto/get-tuple.dto.js';
import { ListRequest } from './dto/list.dto.js';
import { PutWritesRequest } from './dto/put-writes.dto.js';
import { PutRequest, PutResponse } from './dto/put.dto.js';
import { TupleResponse } from './dto/tuple.response.js';
import { Operation } from '../http/openapi/operation.decorator.js';
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

@ApiTags('checkpoints')
@Controller('checkpoints')
export class CheckpointsController {
  private readonly validate: Validate;

  constructor(
    settings: Settings,
    private readonly metrics: Metrics,
    private readonly getTupleUseCase: GetTupleUseCase,
    private readonly putUseCase: PutUseCase,
    private readonly putWritesUseCase: PutWritesUseCase,
    private readonly batchUseCase: BatchUseCase,
    private readonly listUseCase: ListUseCase,
    private readonly deleteThreadUseCase: DeleteThreadUseCase,
    private readonly copyThreadUseCase: CopyThreadUseCase,
    private readonly deleteForRunsUseCase: DeleteForRunsUseCase,
    private readonly pruneUseCase: PruneUseCase,
    private readonly deltaChannelHistoryUseCase: DeltaChannelHistoryUseCase,
  ) {
    this.validate = validatorOf(validationPipe(settings.fastPath));
  }

  @Operation('get-tuple', {
    summary: 'Read a checkpoint',
    description:
      'One checkpoint with its blobs and pending writes; the latest when no id is given. `null` when there is none.',
    request: { type: GetTupleRequest, example: EXAMPLES.getTuple },
    answer: { type: TupleResponse, nullable: true, example: EXAMPLES.tuple },
  })
  async getTuple(@Body() body: GetTupleRequest): Promise<string | JsonWithBlobs> {
    return body.toAnswer(await this.getTupleUseCase.execute(body.toInput()));
  }

  @Operation('put', {
    summary: 'Store a checkpoint',
    description:
      'Stores a checkpoint and its blobs, all or nothing. Blobs that exist are kept; of a checkpoint that exists, ' +
      '`checkpoint` and `metadata` are replaced and the parent is kept. May be repeated.',
    request: { type: PutRequest, example: EXAMPLES.put },
    answer: { type: PutResponse, example: EXAMPLES.key },
  })
  async put(@Body() body: PutRequest): Promise<PutResponse> {
    return PutResponse.of(await this.putUseCase.execute(body.toInput()));
  }

  @Operation('put-writes', {
    summary: 'Store pending writes',
    description:
      'Stores what tasks wrote, all or nothing, also before their checkpoint is stored. May be repeated.',
    request: { type: PutWritesRequest, example: EXAMPLES.putWrites },
  })
  async putWrites(@Body() body: PutWritesRequest): Promise<void> {
    await this.putWritesUseCase.execute(body.toInput());
  }

  @Operation('batch', {
    summary: 'Store several at once',
    description:
      'Carries out `put` and `put-writes`, those of a thread in their order, each as if it had come alone and with a result of ' +
      'its own. For each there are two lines of JSON: `{"operation":"put"}`, and the request. May be repeated.',
    request: { lines: BATCH.type, example: EXAMPLES.batch },
    answer: { type: BatchResponse, example: EXAMPLES.batched },
  })
  async batch(
    @Batched() batch: BatchBody,
    @Res({ passthrough: true }) response: ServerResponse,
  ): Promise<BatchResponse> {
    const outcomes = await this.batchUseCase.execute(readsOf(batch, this.validate), batchCallerOf(batch));
    const answer = BatchResponse.of(outcomes, response);
    answer.results.forEach(({ status }, at) => {
      this.metrics.batched(batch.items[at]?.operation ?? '', status);
    });
    return answer;
  }

  @Operation('list', {
    summary: 'List checkpoints',
    description:
      'Newest first. When rows were left out, the header `x-next-cursor` holds what to send as `cursor` to go on exactly there.',
    request: { type: ListRequest, example: EXAMPLES.list },
    answer: { type: TupleResponse, isArray: true, example: EXAMPLES.listed, headers: ['x-next-cursor'] },
  })
  async list(
    @Body() body: ListRequest,
    @Res({ passthrough: true }) response: ServerResponse,
  ): Promise<string | JsonWithBlobs> {
    return body.toAnswer(await this.listUseCase.execute(body.toInput()), response);
  }

  @Audited('thread_id')
  @Operation('delete-thread', {
    summary: 'Delete a thread',
    description:
      'Removes every row of the thread, in all namespaces; also when there is none. May be repeated.',
    request: { type: ThreadDto, example: EXAMPLES.deleteThread },
  })
  async deleteThread(@Body() body: ThreadDto): Promise<void> {
    await this.deleteThreadUseCase.execute(body.thread_id);
  }

  @Audited('source_thread_id', 'target_thread_id')
  @Operation('copy-thread', {
    summary: 'Copy a thread',
    description:
      'Copies every row of every namespace, ids kept. What the target has already is kept. A `metadata.thread_id` that names the ' +
      'source names the target in the copy. May be repeated.',
    request: { type: CopyThreadRequest, example: EXAMPLES.copyThread },
  })
  async copyThread(@Body() body: CopyThreadRequest): Promise<void> {
    await this.copyThreadUseCase.execute(body.toInput());
  }

  @Audited('run_ids')
  @Operation('delete-for-runs', {
    summary: 'Delete the checkpoints of runs',
    description:
      'Removes the checkpoints whose `metadata.run_id` is listed, their writes, and the blobs that no checkpoint refers to ' +
      'any more: each thread at once, one after the other. May be repeated.',
    request: { type: DeleteForRunsRequest, example: EXAMPLES.deleteForRuns },
  })
  async deleteForRuns(@Body() body: DeleteForRunsRequest): Promise<void> {
    await this.deleteForRunsUseCase.execute(body.toInput());
  }

  @Audited('thread_ids', 'strategy')
  @Operation('prune', {
    summary: 'Thin out threads',
    description:
      'Removes what the strategy does not keep, with the blobs that no checkpoint refers to: each thread at once, one after ' +
      'the other. May be repeated.',
    request: { type: PruneRequest, example: EXAMPLES.prune },
  })
  async prune(@Body() body: PruneRequest): Promise<void> {
    await this.pruneUseCase.execute(body.toInput());
  }

  @Operation('delta-channel-history', {
    summary: 'Read what delta channels are rebuilt from',
    description:
      'Per channel the writes along the parents of a checkpoint, itself left out, oldest first, up to and with the nearest ' +
      'ancestor that stored a value of the channel, which is the seed.',
    request: { type: DeltaChannelHistoryRequest, example: EXAMPLES.deltaChannelHistory },
    answer: { type: ChannelHistoryResponse, map: true, example: EXAMPLES.histories },
  })
  async deltaChannelHistory(@Body() body: DeltaChannelHistoryRequest): Promise<string> {
    return ChannelHistoryResponse.json(await this.deltaChannelHistoryUseCase.execute(body.toInput()));
  }
}
