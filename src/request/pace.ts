import type { Settings } from '../config/env.js';

/** While others wait for what a client holds, it has so long to get on, or half of `QUEUE_WAIT_MS` when that is longer. */
const PRESSED_MS = 1000;

/** How many bytes had moved when that was last fast enough, and when that was; 0: nothing has to. */
export interface Pace {
  paceBytes: number;
  paceAt: number;
}

/**
 * The time of those who look at the paces every `everyMs`. While the process is held up it reads nothing, and no client is to
 * blame: of that time no more counts than two looks take.
 */
export class PaceClock {
  private lookedAt = -Infinity;
  private elapsedMs = 1;

  constructor(private readonly everyMs: number) {}

  /** To be called at each look, `now` as `performance.now()` has it. @returns milliseconds */
  at(now: number): number {
    this.elapsedMs += Math.min(now - this.lookedAt, 2 * this.everyMs);
    this.lookedAt = now;
    return this.elapsedMs;
  }
}

/**
 * Whether a client has moved too little for too long: over `STALL_TIMEOUT_MS`, or less while others wait, it has to move at
 * `rate` bytes a second, null for any at all. `moved` is what has moved so far, `now` as a `PaceClock` has it.
 */
export function isTooSlow(
  pace: Pace,
  moved: number,
  { stallTimeoutMs, queueWaitMs }: Settings,
  { rate, isPressed, now }: { rate: number | null; isPressed: boolean; now: number },
): boolean {
  const window = isPressed ? Math.min(stallTimeoutMs, Math.max(PRESSED_MS, queueWaitMs / 2)) : stallTimeoutMs;
  const least = rate === null ? 1 : Math.max(1, (rate * window) / 1000);
  if (pace.paceAt === 0 || moved - pace.paceBytes >= least) {
    pace.paceBytes = moved;
    pace.paceAt = now;
    return false;
  }
  return now - pace.paceAt >= window;
}
