import { Injectable, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { Settings } from '../config/env.js';
import type { Principal } from '../request/principal.js';
import type { Refusal } from './refusal.js';
import { type ApiKey, idAt, idOf, looksLikeKey } from './domain/api-key.js';
import { ApiKeyRepository } from './api-key.repository.js';
import { KeyFile } from './key-file.js';
import { KeyTable } from './key-table.js';
import type { Keys } from './keys.js';
import { Tokens } from './tokens.js';

/** Says whose a key or token is. */
@Injectable()
export class Authenticator implements OnModuleInit, OnApplicationShutdown {
  private readonly keys: Keys | null;
  private readonly tokens: Tokens | null;

  constructor({ authModes, apiKeysFile, jwt }: Settings, repository: ApiKeyRepository) {
    this.tokens = jwt === null ? null : new Tokens(jwt);
    if (!authModes.includes('keys')) this.keys = null;
    else this.keys = apiKeysFile === null ? new KeyTable(repository) : new KeyFile(apiKeysFile);
  }

  async onModuleInit(): Promise<void> {
    await this.keys?.start();
    await this.tokens?.start();
  }

  onApplicationShutdown(): void {
    this.keys?.stop();
    this.tokens?.stop();
  }

  /** At once for a key or token that is known. @throws DatabaseUnavailableError, IssuerUnavailableError when that cannot be said */
  verify(credential: string): Principal | Refusal | Promise<Principal | Refusal> {
    if (!looksLikeKey(credential)) return this.tokens?.verify(credential) ?? { refused: 'no token is taken' };
    if (this.keys === null) return { refused: 'no key is taken' };
    const known = this.keys.known(idAt(credential));
    if (known !== undefined) return verdict(this.keys, known, credential);
    const id = idOf(credential);
    if (id === null) return { refused: 'malformed' };
    const unknown = { refused: 'unknown', key: id };
    const { keys } = this;
    const found = keys.find(id);
    return found?.then((key) => (key === null ? unknown : verdict(keys, key, credential))) ?? unknown;
  }
}

function verdict(keys: Keys, key: ApiKey, text: string): Principal | Refusal {
  const fault = key.faultOf(text);
  if (fault !== null) return { refused: fault, key: key.record.id };
  keys.used(key);
  return key.principal;
}
