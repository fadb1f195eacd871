import { Logger } from '@nestjs/common';
import { DatabaseUnavailableError } from '../checkpoints/checkpoint.errors.js';
import { ApiKey } from './api-key.js';
import type { ApiKeyRepository } from './api-key.repository.js';
import type { Keys } from './keys.js';

/** So long, and the time of a query, may a key work that was revoked elsewhere. */
const REFRESH_MS = 1000;
/** Look-ups of ids that are not in memory. */
const LOOK_UPS_PER_SECOND = 10;

/**
 * The table's keys, all in memory. A key that is not there is looked for, so that a new one works at once; how often, is
 * bounded, so that a flood of invented ids costs the database nothing and delays a new key by `REFRESH_MS` at most. While
 * the database is away the keys that were read last go on, for as long as that takes: nothing else is answered meanwhile.
 */
export class KeyTable implements Keys {
  private readonly logger = new Logger('keys');
  private keys = new Map<string, ApiKey>();
  /** Of `keys`; null: not read yet. */
  private version: string | null = null;
  private isCurrent = false;
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private lookUps = LOOK_UPS_PER_SECOND;
  /** A burst of requests with a new key looks for it once. */
  private readonly lookedFor = new Map<string, Promise<ApiKey | null>>();

  constructor(private readonly repository: ApiKeyRepository) {}

  async start(): Promise<void> {
    await this.refresh();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  known(id: string): ApiKey | undefined {
    return this.keys.get(id);
  }

  find(id: string): null | Promise<ApiKey | null> {
    const lookedFor = this.lookedFor.get(id);
    if (lookedFor !== undefined) return lookedFor;
    if (this.lookUps > 0) {
      this.lookUps -= 1;
      const found = this.lookUp(id).finally(() => this.lookedFor.delete(id));
      this.lookedFor.set(id, found);
      return found;
    }
    if (!this.isCurrent) throw new DatabaseUnavailableError('The keys cannot be read from the database');
    return null;
  }

  private async lookUp(id: string): Promise<ApiKey | null> {
    const record = await this.repository.find(id);
    if (record === null) return null;
    const key = new ApiKey(record);
    this.keys.set(id, key);
    return key;
  }

  private async refresh(): Promise<void> {
    this.lookUps = LOOK_UPS_PER_SECOND;
    try {
      if (this.version === null || (await this.repository.version()) !== this.version) {
        const { version, keys } = await this.repository.findAll();
        this.keys = new Map(keys.map((record) => [record.id, new ApiKey(record)]));
        this.version = version;
      }
      this.isCurrent = true;
    } catch (error) {
      if (this.isCurrent || this.version === null) {
        this.logger.warn(`the keys cannot be read, those read last go on: ${String(error)}`);
      }
      this.isCurrent = false;
    }
    if (this.stopped) return;
    this.timer = setTimeout(() => void this.refresh(), REFRESH_MS).unref();
  }
}
