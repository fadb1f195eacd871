import { Body, Controller, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { Response } from 'express';
import { ThreadDto } from './dto/checkpoint-key.dto.js';
import { EXAMPLES } from './dto/examples.js';
import { GetTupleRequest } from './dto/get-tuple.dto.js';
import { ListRequest } from './dto/list.dto.js';
import { PutWritesRequest } from './dto/put-writes.dto.js';
import { PutRequest, PutResponse } from './dto/put.dto.js';
import { TupleResponse } from './dto/tuple.response.js';
import { Operation } from './operation.decorator.js';
import { DeleteThreadUseCase } from './use-cases/delete-thread.use-case.js';
import { GetTupleUseCase } from './use-cases/get-tuple.use-case.js';
import { ListUseCase } from './use-cases/list.use-case.js';
import { PutWritesUseCase } from './use-cases/put-writes.use-case.js';
import { PutUseCase } from './use-cases/put.use-case.js';

@ApiTags('checkpoints')
@Controller('checkpoints')
export class CheckpointsController {
  constructor(
    private readonly getTupleUseCase: GetTupleUseCase,
    private readonly putUseCase: PutUseCase,
    private readonly putWritesUseCase: PutWritesUseCase,
    private readonly listUseCase: ListUseCase,
    private readonly deleteThreadUseCase: DeleteThreadUseCase,
  ) {}

  @Operation('get-tuple', {
    summary: 'Read a checkpoint',
    description:
      'One checkpoint with its blobs and pending writes; the latest when no id is given. `null` when there is none.',
    request: { type: GetTupleRequest, example: EXAMPLES.getTuple },
    answer: { type: TupleResponse, nullable: true, example: EXAMPLES.tuple },
  })
  async getTuple(@Body() body: GetTupleRequest): Promise<string> {
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

  @Operation('list', {
    summary: 'List checkpoints',
    description:
      'Newest first. When rows were left out, the header `x-next-cursor` holds what to send as `cursor` to go on exactly there.',
    request: { type: ListRequest, example: EXAMPLES.list },
    answer: { type: TupleResponse, isArray: true, example: EXAMPLES.listed, headers: ['x-next-cursor'] },
  })
  async list(@Body() body: ListRequest, @Res({ passthrough: true }) response: Response): Promise<string> {
    return body.toAnswer(await this.listUseCase.execute(body.toInput()), response);
  }

  @Operation('delete-thread', {
    summary: 'Delete a thread',
    description:
      'Removes every row of the thread, in all namespaces; also when there is none. May be repeated.',
    request: { type: ThreadDto, example: EXAMPLES.deleteThread },
  })
  async deleteThread(@Body() body: ThreadDto): Promise<void> {
    await this.deleteThreadUseCase.execute(body.thread_id);
  }
}
