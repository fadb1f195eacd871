import type { Caller } from './caller.js';
import { contentOf, differenceOf } from './content.js';
import type { WireTuple } from './history.js';

const KIB = 1024;
/** Of a size each at which memory is handled in another way. */
const SIZES = [5 * KIB, 300 * KIB, 700 * KIB, 4096 * KIB];

/** Reads threads that never change, over and over: other bytes in an answer are the service's doing. */
export class Reader {
  constructor(
    private readonly name: string,
    private readonly caller: Caller,
    private readonly isOver: () => boolean,
  ) {}

  /** The thread of each size; the last one is the largest. */
  static threadsOf(name: string): string[] {
    return SIZES.map((bytes) => `${name}-${bytes / KIB}k`);
  }

  async store(): Promise<void> {
    for (const [n, bytes] of SIZES.entries()) {
      const thread = Reader.threadsOf(this.name)[n]!;
      await this.caller.post('put', {
        ...{ thread_id: thread, checkpoint_id: '1', checkpoint: { v: 4, channel_versions: { m: '1' } } },
        blobs: [
          {
            channel: 'm',
            version: '1',
            type: 'bytes',
            blob: contentOf(this.label(thread), bytes).toString('base64'),
          },
        ],
      });
    }
  }

  async live(): Promise<void> {
    while (!this.isOver()) await this.read(this.caller.chance.of([0, 0, 0, 1, 1, 1, 2, 2, 3]));
  }

  async checkAll(): Promise<void> {
    for (const n of SIZES.keys()) await this.read(n);
  }

  private label(thread: string): string {
    return `${this.caller.tenant.name}/${thread}/blob`;
  }

  private async read(n: number): Promise<void> {
    const { caller } = this;
    const thread = Reader.threadsOf(this.name)[n]!;
    const { json } = await caller.post('get-tuple', { thread_id: thread });
    const tuple = json as WireTuple | null;
    caller.findings.checks += 1;
    const content = Buffer.from(tuple?.blobs[0]?.blob ?? '', 'base64');
    const difference = differenceOf(content, this.label(thread), SIZES[n]!);
    if (tuple === null || tuple.thread_id !== thread || tuple.blobs.length !== 1)
      caller.findings.fault('wrong', `${thread} is ${JSON.stringify(tuple).slice(0, 300)}`);
    if (difference === null) return;
    caller.own(`the blob of ${thread}`, content);
    caller.findings.fault('wrong', `the blob of ${thread}: ${difference}`);
  }
}
