import { Logger } from '@nestjs/common';
import type { Metrics } from '../../observability/metrics/metrics.js';
import type { NewCheckpoint } from '../domain/checkpoint.js';

/** A line says how many there were since the one before. */
const LINE_MS = 60_000;

/**
 * Notices checkpoints whose id is not above their parent's, as when a clock was set back: they are stored, but the latest
 * checkpoint is still another one, so the next run goes on from there. Ids are compared byte by byte, as Postgres does.
 */
export class PutOrder {
  private readonly logger = new Logger('checkpoints');
  private since = 0;
  private lastLine = -Infinity;

  constructor(private readonly metrics: Metrics) {}

  look({ key: { checkpointId }, parentCheckpointId: parent }: NewCheckpoint): void {
    if (parent === null || parent === '' || isAbove(checkpointId, parent)) return;
    this.metrics.putsNotAboveParent += 1;
    this.since += 1;
    const now = performance.now();
    if (now < this.lastLine + LINE_MS) return;
    this.logger.warn(
      `${this.since} checkpoints were put whose id is not above their parent's, so that they are not the latest of their thread: ` +
        'was the clock of an agent set back?',
    );
    this.lastLine = now;
    this.since = 0;
  }
}

function isAbove(id: string, other: string): boolean {
  return Buffer.compare(Buffer.from(id), Buffer.from(other)) > 0;
}
