import { Global, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { ApiKeyRepository } from './api-key.repository.js';
import { Audit } from './audit.js';
import { Authenticator } from './authenticator.js';
import { ApiKeyEntity } from './entities/api-key.entity.js';
import { KeysController } from './keys.controller.js';
import { CreateKeyUseCase } from './use-cases/create-key.use-case.js';
import { ListKeysUseCase } from './use-cases/list-keys.use-case.js';
import { RevokeKeyUseCase } from './use-cases/revoke-key.use-case.js';
import { RotateKeyUseCase } from './use-cases/rotate-key.use-case.js';

/** Who may do what, and the audit log. */
@Global()
@Module({
  imports: [TypeOrmModule.forFeature([ApiKeyEntity])],
  controllers: [KeysController],
  providers: [
    ApiKeyRepository,
    Audit,
    Authenticator,
    CreateKeyUseCase,
    ListKeysUseCase,
    RevokeKeyUseCase,
    RotateKeyUseCase,
  ],
  exports: [Audit],
})
export class AuthModule {}
