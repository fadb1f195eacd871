import { Injectable } from '@nestjs/common';
import { ApiKeyRepository } from '../api-key.repository.js';
import { UnknownKeyError } from '../../errors/errors.js';

@Injectable()
export class RevokeKeyUseCase {
  constructor(private readonly keys: ApiKeyRepository) {}

  /** Ends a key, on every instance within seconds. Safe to repeat. @throws UnknownKeyError */
  async execute(id: string, tenant: string | null): Promise<void> {
    if (!(await this.keys.revoke(id, tenant))) throw new UnknownKeyError();
  }
}
