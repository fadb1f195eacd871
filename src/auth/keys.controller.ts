import { Body, Controller, Header } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Audited } from './audited.js';
import { Operation } from '../http/openapi/operation.decorator.js';
import { tenantOf } from '../request/caller.js';
import {
  CreateKeyRequest,
  KeyResponse,
  ListKeysRequest,
  NewKeyResponse,
  RevokeKeyRequest,
  RotateKeyRequest,
} from './dto/keys.dto.js';
import { CreateKeyUseCase } from './use-cases/create-key.use-case.js';
import { ListKeysUseCase } from './use-cases/list-keys.use-case.js';
import { RevokeKeyUseCase } from './use-cases/revoke-key.use-case.js';
import { RotateKeyUseCase } from './use-cases/rotate-key.use-case.js';

const ID = '7Kq2mVx0bTfR';
const KEY = {
  ...{ id: ID, tenant: 'team-a', name: 'agents', scopes: ['read', 'write'] },
  ...{ created_at: '2026-01-01T00:00:00.000Z', expires_at: '2026-04-01T00:00:00.000Z', revoked_at: null },
};
const NEW_KEY = { key: `ckpt_${ID}_…`, ...KEY };

@ApiTags('keys')
@Controller('keys')
export class KeysController {
  constructor(
    private readonly createKeyUseCase: CreateKeyUseCase,
    private readonly listKeysUseCase: ListKeysUseCase,
    private readonly revokeKeyUseCase: RevokeKeyUseCase,
    private readonly rotateKeyUseCase: RotateKeyUseCase,
  ) {}

  @Audited('name', 'scopes')
  @Header('Cache-Control', 'no-store')
  @Operation('create', {
    operationId: 'keys-create',
    summary: 'Make a key',
    description:
      'Makes a key of the tenant that the caller acts for, which works at once. The answer alone has its text.',
    request: { type: CreateKeyRequest, example: { name: 'agents', scopes: ['read', 'write'] } },
    answer: { type: NewKeyResponse, example: NEW_KEY },
  })
  async create(@Body() body: CreateKeyRequest): Promise<NewKeyResponse> {
    return NewKeyResponse.ofNew(await this.createKeyUseCase.execute(body.toInput()));
  }

  @Operation('list', {
    operationId: 'keys-list',
    summary: 'List keys',
    description: 'The keys of the tenant, those that have ended too, the oldest first.',
    request: { type: ListKeysRequest, example: {} },
    answer: { type: KeyResponse, isArray: true, example: [KEY] },
  })
  async list(@Body() body: ListKeysRequest): Promise<KeyResponse[]> {
    return (await this.listKeysUseCase.execute(tenantOf(body))).map((record) => KeyResponse.of(record));
  }

  @Audited('id')
  @Operation('revoke', {
    operationId: 'keys-revoke',
    summary: 'Revoke a key',
    description: 'Ends a key of the tenant, on every instance within seconds. May be repeated.',
    request: { type: RevokeKeyRequest, example: { id: ID } },
  })
  async revoke(@Body() body: RevokeKeyRequest): Promise<void> {
    await this.revokeKeyUseCase.execute(body.id, tenantOf(body));
  }

  @Audited('id')
  @Header('Cache-Control', 'no-store')
  @Operation('rotate', {
    operationId: 'keys-rotate',
    summary: 'Rotate a key',
    description:
      'Makes another key of the same tenant, name and scopes. The old one ends after the grace period, and not before the ' +
      'new one was used once; so when the answer is lost, the old key still works, also to repeat this.',
    request: { type: RotateKeyRequest, example: { id: ID, grace_seconds: 3600 } },
    answer: { type: NewKeyResponse, example: NEW_KEY },
  })
  async rotate(@Body() body: RotateKeyRequest): Promise<NewKeyResponse> {
    return NewKeyResponse.ofNew(await this.rotateKeyUseCase.execute(body.toInput()));
  }
}
