/** A read begins without memory, and is not counted up to here; nor beyond a sixteenth of all. In bytes. */
const FREE_BYTES = 1024 * 1024;
const FREE_SHARE = 1 / 16;

/** Other reads took the memory: what was read is gone, and is to be read again. */
export class NoRoomError extends Error {}

/**
 * The bytes of the rows that reads under way have taken from the database. Over what `roomBytes` gives only the oldest of
 * the large reads goes on, so that there is always one that comes to its end; the others give back what they have, and keep
 * their age for when they begin again, so that each is the oldest one day. Nor does the oldest go on while answers take all
 * that they may: otherwise one after the other would be the oldest, and would leave an answer that nobody takes.
 */
export class ReadMemory {
  /** The large ones. */
  private readonly readings = new Set<Reading>();
  /** Of those. */
  totalBytes = 0;
  readonly freeBytes: number;

  constructor(
    inflightBytes: number,
    private readonly options: {
      roomBytes: () => number;
      areAnswersHeld: (tenant: string) => boolean;
      /** Is told of a read that is to begin again, and what it had taken. */
      onRefused: (bytes: number) => void;
    },
  ) {
    this.freeBytes = Math.min(FREE_BYTES, inflightBytes * FREE_SHARE);
  }

  begin({ tenant, since }: Pick<Reading, 'tenant' | 'since'>): Reading {
    return new Reading(this, tenant, since);
  }

  /** Whether a large read is under way that is older. */
  hasOlder(than: number): boolean {
    for (const { since } of this.readings) if (since < than) return true;
    return false;
  }

  /** Returns whether there is room for so many more bytes of it. */
  add(reading: Reading, bytes: number): boolean {
    this.readings.add(reading);
    this.totalBytes += bytes;
    const { roomBytes, areAnswersHeld, onRefused } = this.options;
    if (this.totalBytes <= roomBytes()) return true;
    if (!this.hasOlder(reading.since) && !areAnswersHeld(reading.tenant)) return true;
    onRefused(reading.bytes);
    return false;
  }

  remove(reading: Reading): void {
    if (this.readings.delete(reading)) this.totalBytes -= reading.bytes;
  }
}

/** One read; `end` has to follow. */
export class Reading {
  bytes = 0;
  private state: 'open' | 'refused' | 'ended' = 'open';

  constructor(
    private readonly memory: ReadMemory,
    readonly tenant: string,
    /** When it began, or was first to begin again, as `performance.now()` has it. */
    readonly since: number,
  ) {}

  get isLarge(): boolean {
    return this.bytes > this.memory.freeBytes;
  }

  /** Counts bytes that came; returns whether they may be kept, and what came before. */
  take(bytes: number): boolean {
    if (this.state !== 'open') return this.state === 'ended';
    const wasLarge = this.isLarge;
    this.bytes += bytes;
    if (!this.isLarge || this.memory.add(this, wasLarge ? bytes : this.bytes)) return true;
    this.end();
    this.state = 'refused';
    return false;
  }

  end(): void {
    this.memory.remove(this);
    this.bytes = 0;
    if (this.state === 'open') this.state = 'ended';
  }
}
