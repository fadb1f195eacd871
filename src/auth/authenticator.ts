import { Injectable, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { Settings } from '../config/env.js';
import type { Principal } from '../http/principal.js';
import { type ApiKey, idOf } from './api-key.js';
import { ApiKeyRepository } from './api-key.repository.js';
import { KeyFile } from './key-file.js';
import { KeyTable } from './key-table.js';
import type { Keys } from './keys.js';

/** Why nobody is known by a credential, and as far as it is known whose it is. For the log; callers are not told. */
export interface Refusal {
  refused: string;
  key?: string;
}

/** Says whose a key is. */
@Injectable()
export class Authenticator implements OnModuleInit, OnApplicationShutdown {
  private readonly keys: Keys | null;

  constructor({ authModes, apiKeysFile }: Settings, repository: ApiKeyRepository) {
    if (!authModes.includes('keys')) this.keys = null;
    else this.keys = apiKeysFile === null ? new KeyTable(repository) : new KeyFile(apiKeysFile);
  }

  async onModuleInit(): Promise<void> {
    await this.keys?.start();
  }

  onApplicationShutdown(): void {
    this.keys?.stop();
  }

  /** At once for a key that is known. @throws DatabaseUnavailableError when that cannot be said */
  verify(credential: string): Principal | Refusal | Promise<Principal | Refusal> {
    if (this.keys === null) return { refused: 'no key is taken' };
    const id = idOf(credential);
    if (id === null) return { refused: 'malformed' };
    const key = this.keys.find(id);
    return key instanceof Promise
      ? key.then((found) => verdict(id, found, credential))
      : verdict(id, key, credential);
  }
}

function verdict(id: string, key: ApiKey | null, text: string): Principal | Refusal {
  if (key === null) return { refused: 'unknown', key: id };
  const fault = key.faultOf(text);
  return fault === null ? key.principal : { refused: fault, key: id };
}
