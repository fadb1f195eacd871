import { Injectable } from '@nestjs/common';
import type { Scope } from '../../request/principal.js';
import { type ApiKeyRecord, newKeyText, partsOf } from '../domain/api-key.js';
import { ApiKeyRepository } from '../api-key.repository.js';

export interface CreateKeyInput {
  tenant: string;
  name: string;
  scopes: Scope[];
  /** Null: it has no end. */
  expiresInSeconds: number | null;
}

/** A key and, this once, its text. */
export interface KeyWithText {
  text: string;
  record: ApiKeyRecord;
}

@Injectable()
export class CreateKeyUseCase {
  constructor(private readonly keys: ApiKeyRepository) {}

  /** Makes a key, which works at once. Nobody can be told its text again. */
  async execute(input: CreateKeyInput): Promise<KeyWithText> {
    const text = newKeyText();
    return { text, record: await this.keys.insert({ ...input, ...partsOf(text) }) };
  }
}
