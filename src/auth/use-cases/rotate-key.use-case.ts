import { Injectable } from '@nestjs/common';
import { UnknownKeyError } from '../../errors/errors.js';
import { newKeyText, partsOf } from '../domain/api-key.js';
import { ApiKeyRepository } from '../api-key.repository.js';
import type { KeyWithText } from './create-key.use-case.js';

export interface RotateKeyInput {
  id: string;
  /** Null: any. */
  tenant: string | null;
  /** How long the old key works on at least; it ends after that, once the new key was used. */
  graceSeconds: number;
  /** Null: as long as the old one was to last. */
  expiresInSeconds: number | null;
}

@Injectable()
export class RotateKeyUseCase {
  constructor(private readonly keys: ApiKeyRepository) {}

  /**
   * Makes a key that takes the place of another one, which works on until the new one was used: when the answer is lost, the
   * old key is still good, also for another try. @throws UnknownKeyError
   */
  async execute({ id, tenant, graceSeconds, expiresInSeconds }: RotateKeyInput): Promise<KeyWithText> {
    const text = newKeyText();
    const key = { ...partsOf(text), expiresInSeconds };
    const record = await this.keys.rotate(id, tenant, { key, graceSeconds });
    if (record === null) throw new UnknownKeyError();
    return { text, record };
  }
}
