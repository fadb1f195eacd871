import { JsonPlusSerializer, type SerializerProtocol } from '@langchain/langgraph-checkpoint';
import { refuseLost } from './unserializable.js';

export interface EncryptedSerializerOptions {
  /** 16, 24 or 32 random bytes, for AES-128, AES-192 or AES-256. Whoever has lost it has lost the threads. */
  key: Uint8Array;
  /** Keys of the past: values that were encrypted with them can still be read. */
  previousKeys?: readonly Uint8Array[] | undefined;
  /** What turns values into the bytes that are encrypted; default LangGraph's `JsonPlusSerializer`. */
  serde?: SerializerProtocol | undefined;
  /**
   * Reads values that are not encrypted, too, as a thread that was begun without has them. Whoever can write to the database
   * can then put values of his own in place of encrypted ones. Default false.
   */
  allowPlaintext?: boolean | undefined;
}

/** Behind the type of a value, as LangGraph's Python `EncryptedSerializer` writes it. */
const SUFFIX = '+aes';
const NONCE_BYTES = 16;
const TAG_BYTES = 16;

type Key = Awaited<ReturnType<typeof crypto.subtle.importKey>>;

/** A stored value is not what this key has encrypted. */
export class DecryptionError extends Error {
  override readonly name = 'DecryptionError';
}

/**
 * Encrypts values before they leave the process, by AES-GCM with a new random nonce each: pass it as `serde`. What is no value,
 * such as ids, names of channels and nodes, and metadata, is stored as ever.
 *
 * The bytes are nonce, tag and ciphertext, as LangGraph's Python `EncryptedSerializer.from_pycryptodome_aes` has them with
 * `mode=AES.MODE_GCM`.
 */
export class EncryptedSerializer implements SerializerProtocol {
  private readonly key: Promise<Key>;
  private readonly keys: readonly Promise<Key>[];
  private readonly serde: SerializerProtocol;
  private readonly allowPlaintext: boolean;

  /** @throws TypeError when a key is not 16, 24 or 32 bytes long */
  constructor(options: EncryptedSerializerOptions) {
    const { key, previousKeys = [], serde = new JsonPlusSerializer(), allowPlaintext = false } = options;
    this.key = imported(key);
    this.keys = [this.key, ...previousKeys.map(imported)];
    this.serde = serde;
    this.allowPlaintext = allowPlaintext;
  }

  async dumpsTyped(value: unknown): Promise<[string, Uint8Array]> {
    const [type, plaintext] = (await this.serde.dumpsTyped(value)) as [string, Uint8Array<ArrayBuffer>];
    refuseLost(value, type, plaintext);
    // There is nothing to hide in what JSON has no text for, and the saver has to know it.
    if (type === 'json' && plaintext.length === 0) return [type, plaintext];
    const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    const sealed = new Uint8Array(
      await crypto.subtle.encrypt({ name: 'AES-GCM', iv: nonce }, await this.key, plaintext),
    );
    const bytes = new Uint8Array(NONCE_BYTES + sealed.length);
    bytes.set(nonce);
    bytes.set(sealed.subarray(-TAG_BYTES), NONCE_BYTES);
    bytes.set(sealed.subarray(0, -TAG_BYTES), NONCE_BYTES + TAG_BYTES);
    return [type + SUFFIX, bytes];
  }

  /** @throws DecryptionError when no key fits, the bytes were changed, or they are not encrypted and have to be */
  async loadsTyped(type: string, data: Uint8Array | string): Promise<unknown> {
    if (!type.includes('+')) {
      if (this.allowPlaintext) return this.serde.loadsTyped(type, data) as Promise<unknown>;
      throw new DecryptionError(`A stored value of type ${type} is not encrypted; see allowPlaintext`);
    }
    if (!type.endsWith(SUFFIX) || typeof data === 'string') {
      throw new DecryptionError(
        `A stored value of type ${type} is encrypted in a way that is not known here`,
      );
    }
    const [plainType, plaintext] = [type.slice(0, -SUFFIX.length), await this.decrypt(data)];
    // As earlier versions encrypted what JSON has no text for.
    if (plainType === 'json' && plaintext.length === 0) return undefined;
    return this.serde.loadsTyped(plainType, plaintext) as Promise<unknown>;
  }

  private async decrypt(bytes: Uint8Array): Promise<Uint8Array> {
    const iv = bytes.slice(0, NONCE_BYTES);
    const tag = bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES);
    const ciphertext = bytes.subarray(NONCE_BYTES + TAG_BYTES);
    const sealed = new Uint8Array(ciphertext.length + tag.length);
    sealed.set(ciphertext);
    sealed.set(tag, ciphertext.length);
    let cause: unknown;
    for (const key of this.keys) {
      try {
        return new Uint8Array(await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, await key, sealed));
      } catch (error) {
        cause = error;
      }
    }
    throw new DecryptionError(
      'A stored value was encrypted with another key, or has been changed since it was stored',
      { cause },
    );
  }
}

function imported(key: Uint8Array): Promise<Key> {
  if (![16, 24, 32].includes(key.length)) throw new TypeError('A key must have 16, 24 or 32 bytes');
  return crypto.subtle.importKey('raw', Uint8Array.from(key), 'AES-GCM', false, ['encrypt', 'decrypt']);
}
