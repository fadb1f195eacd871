import { Logger } from '@nestjs/common';
import { DatabaseUnavailableError } from '../errors/errors.js';
import { ApiKey } from './domain/api-key.js';
import type { ApiKeyRepository } from './api-key.repository.js';
import type { Keys } from './keys.js';

/** So long, and the time of a query, may a key work that was revoked elsewhere. */
const REFRESH_MS = 1000;
/** All keys are read again even if their version is the same: after a failover that lost changes it may mean other ones. */
const RELOAD_MS = 60_000;
/** Look-ups of ids that are not in memory. */
const LOOK_UPS_PER_SECOND = 10;

/** A key that a look-up found in a version of the table that is newer than the one in memory. */
interface Newer {
  version: bigint;
  key: ApiKey;
}

/**
 * The table's keys, all in memory. A key that is not there is looked for, so that a new one works at once; how often, is
 * bounded, so that a flood of invented ids costs the database nothing and delays a new key by `REFRESH_MS` at most. While
 * the database is away the keys that were read last go on, for as long as that takes: nothing else is answered meanwhile.
 *
 * Look-ups and refreshes overlap, and the one that began first may end last. So each knows the version of the table that it
 * read, and an older one never replaces a newer one.
 */
export class KeyTable implements Keys {
  private readonly logger = new Logger('keys');
  private keys = new Map<string, ApiKey>();
  /** Of `keys`; null: not read yet. */
  private version: bigint | null = null;
  private loadedAt = 0;
  private newer = new Map<string, Newer>();
  /** Null: it was not tried yet. */
  private isCurrent: boolean | null = null;
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;
  private lookUps = LOOK_UPS_PER_SECOND;
  /** A burst of requests with a new key looks for it once. */
  private readonly lookedFor = new Map<string, Promise<ApiKey | null>>();
  /** Keys whose first use was written, or is being written, in this second. */
  private readonly noted = new Set<string>();

  constructor(private readonly repository: ApiKeyRepository) {}

  async start(): Promise<void> {
    await this.refresh();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  known(id: string): ApiKey | undefined {
    return this.newer.get(id)?.key ?? this.keys.get(id);
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

  /** The first use of a key ends the one that it replaces. Nobody waits for it; what fails is tried with a later use. */
  used({ record: { id, isUnused } }: ApiKey): void {
    if (isUnused !== true || this.noted.has(id)) return;
    this.noted.add(id);
    this.repository.setUsed(id).catch((error: unknown) => {
      this.logger.warn(
        `the first use of key ${id} is not written, so the key before it goes on: ${String(error)}`,
      );
    });
  }

  private async lookUp(id: string): Promise<ApiKey | null> {
    const { version, key: record } = await this.repository.find(id);
    const before = this.newer.get(id)?.version ?? this.version;
    // What is in memory has been read meanwhile, and is not older than this.
    if (before !== null && version <= before) return this.known(id) ?? null;
    if (record === null) return null;
    const key = new ApiKey(record);
    this.newer.set(id, { version, key });
    return key;
  }

  private async refresh(): Promise<void> {
    this.lookUps = LOOK_UPS_PER_SECOND;
    this.noted.clear();
    try {
      await this.read();
      this.isCurrent = true;
    } catch (error) {
      if (this.isCurrent !== false) {
        const effect = this.version === null ? 'and no key works yet' : 'those read last go on';
        this.logger.warn(`the keys cannot be read, ${effect}: ${String(error)}`);
      }
      this.isCurrent = false;
    }
    if (this.stopped) return;
    this.timer = setTimeout(() => void this.refresh(), REFRESH_MS).unref();
  }

  /** One at a time, so that each reads what is not older than what the last one read. */
  private async read(): Promise<void> {
    const before = [...this.newer];
    const began = performance.now();
    const isDue = this.version === null || began > this.loadedAt + RELOAD_MS;
    if (!isDue && (await this.repository.version()) === this.version) {
      this.forget(before);
      return;
    }
    const { version, keys } = await this.repository.findAll();
    this.keys = new Map(keys.map((record) => [record.id, new ApiKey(record)]));
    this.version = version;
    this.loadedAt = began;
    this.forget(before);
    for (const [id, found] of this.newer) if (found.version <= version) this.newer.delete(id);
  }

  /** What was found before the table was read is in it, or gone from it. */
  private forget(before: [string, Newer][]): void {
    for (const [id, found] of before) if (this.newer.get(id) === found) this.newer.delete(id);
  }
}
