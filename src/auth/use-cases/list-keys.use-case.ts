import { Injectable } from '@nestjs/common';
import type { ApiKeyRecord } from '../domain/api-key.js';
import { ApiKeyRepository } from '../api-key.repository.js';

@Injectable()
export class ListKeysUseCase {
  constructor(private readonly keys: ApiKeyRepository) {}

  /** The tenant's keys (null: all), those that have ended too. */
  execute(tenant: string | null): Promise<ApiKeyRecord[]> {
    return this.keys.list(tenant);
  }
}
