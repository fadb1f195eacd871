import type { Database } from '../database.js';
import { WRITES_PER_TASK, type Shape, checkpointTemplate, newThreads, stepsOf } from '../payload.js';
import type { Profile } from '../profiles.js';
import type { Task } from './candidate.js';
import { SERVICE, Served } from './served.js';

const LONGEST_THREAD = 100_000;
/** Of the other threads, which are never read, and small so that many rows take little time. */
const CHECKPOINTS = 100;
const UNREAD_BYTES = 16;
const UNREAD = '{"v":4,"channel_versions":{}}';

/** The service on one long thread in a database of many rows, which are stored once for all parts. */
export class Grown extends Served {
  private thread: string | undefined;

  constructor(
    database: Database,
    /** In all tables together. */
    private readonly totalRows: number,
  ) {
    super('grown', database, SERVICE);
  }

  override async reload({ shape }: Profile): Promise<Pick<Task, 'threads' | 'checkpoints'>> {
    const checkpoints = Math.min(LONGEST_THREAD, Math.ceil(this.totalRows / 10_000) * 100);
    if (this.thread === undefined) this.thread = await this.grow(shape, checkpoints);
    else await this.cut(this.thread, shape, checkpoints);
    return { threads: [this.thread], checkpoints };
  }

  private async grow(shape: Shape, checkpoints: number): Promise<string> {
    const [thread = ''] = newThreads(1);
    const rowsPerCheckpoint = 1 + shape.freshChannels + shape.tasks * WRITES_PER_TASK;
    const others = this.totalRows / rowsPerCheckpoint / CHECKPOINTS - checkpoints / CHECKPOINTS;
    await this.database.store(shape, [thread], checkpoints, checkpointTemplate(shape));
    const small = { ...shape, blobBytes: UNREAD_BYTES, writeBytes: UNREAD_BYTES };
    await this.database.store(small, newThreads(Math.round(others)), CHECKPOINTS, UNREAD);
    await this.database.settle();
    return thread;
  }

  /** Removes what a part has put. */
  private async cut(thread: string, shape: Shape, checkpoints: number): Promise<void> {
    const { checkpointId, current } = stepsOf(shape)(checkpoints - 1);
    const deleted = await this.database.query(
      'delete from checkpoints where thread_id = $1 and checkpoint_id > $2 returning 1',
      [thread, checkpointId],
    );
    if (deleted.length === 0) return;
    const versions = current.map(({ version }) => version).toSorted();
    await this.database.query('delete from checkpoint_blobs where thread_id = $1 and version > $2', [
      thread,
      versions.at(-1),
    ]);
    await this.database.settle();
  }
}
