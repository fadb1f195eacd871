/** The load generator, a process of its own: closed loops of agents. Takes a LoadSpec on standard input. */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { text } from 'node:stream/consumers';
import { HttpStore, Requests } from './http-store.js';
import type { Shape } from './payload.js';
import type { Operation, Page, Store } from './store.js';

/** Which threads an agent goes through, and at which step it is. */
export type Walk =
  | { kind: 'new threads'; steps: number }
  /** The latest checkpoint of any stored thread. */
  | { kind: 'stored threads' }
  /** Each stored thread once; the part ends when none is left. */
  | { kind: 'each thread' }
  /** Goes on where the stored thread ends. */
  | { kind: 'append' };

export interface LoadSpec {
  store: 'http' | 'javascript' | 'python';
  /** Of the server, or for a saver of the database. */
  url: string;
  shape: Shape;
  agents: number;
  walk: Walk;
  operations: Operation[];
  page: Page | null;
  /** Of each tenant one; absent where nobody is asked. */
  keys?: string[];
  /** Ids of the threads that are stored already, and how many checkpoints each has. */
  threads: string[];
  checkpoints: number;
  warmUpMs: number;
  timedMs: number;
}

/** What a generator prints, a JSON text a line. */
export type LoadEvent = { event: 'begin' } | { event: 'end' } | { event: 'result'; result: LoadResult };

export interface LoadResult {
  /** Within the timed part. */
  operations: number;
  seconds: number;
  /** Null where the generator cannot tell. */
  latencyMs: { p50: number; p95: number; p99: number } | null;
  /** Since the start, warm-up included. */
  acknowledged: Partial<Record<Operation, number>>;
}

const CHECK_EVERY = 16;
const POLL_MS = 10;

class Load {
  private readonly latenciesMs: number[] = [];
  private readonly acknowledged: Partial<Record<Operation, number>> = {};
  private phase: 'warm-up' | 'timed' | 'over' = 'warm-up';
  private taken = 0;
  private warm: () => void = () => undefined;

  constructor(private readonly spec: LoadSpec) {}

  async run(): Promise<LoadResult> {
    const stores = await openStores(this.spec);
    // Where the threads are counted, a tenth of them warms up.
    const isWarm = new Promise<void>((resolve) => (this.warm = resolve));
    const agents = Promise.all(stores.map((store) => this.agent(store)));
    await Promise.race([agents, isWarm, delay(this.spec.warmUpMs)]);
    print({ event: 'begin' });
    this.phase = 'timed';
    const begin = performance.now();
    await Promise.race([agents, delay(this.spec.timedMs)]);
    // Until something can be said, however slow it is.
    while (this.latenciesMs.length === 0) await Promise.race([agents, delay(POLL_MS)]);
    this.phase = 'over';
    const seconds = (performance.now() - begin) / 1000;
    print({ event: 'end' });
    await agents;
    const sorted = Float64Array.from(this.latenciesMs).sort();
    const percentile = (share: number) => sorted[Math.floor(share * sorted.length)] ?? 0;
    return {
      operations: sorted.length,
      seconds,
      latencyMs: { p50: percentile(0.5), p95: percentile(0.95), p99: percentile(0.99) },
      acknowledged: this.acknowledged,
    };
  }

  private async agent(store: Store): Promise<void> {
    let reads = 0;
    let lastThread = '';
    for (const { threadId, n } of this.walk()) {
      // The first read of each new thread, and a sample of the others.
      const isChecked = () =>
        reads++ % CHECK_EVERY === 0 || (this.spec.walk.kind === 'new threads' && threadId !== lastThread);
      for (const operation of this.spec.operations) {
        if (operation === 'put') await this.timed(operation, store.put(threadId, n));
        else if (operation === 'get-tuple')
          await this.timed(operation, store.getTuple(threadId, n, isChecked()));
        else if (operation === 'list') await this.timed(operation, store.list(threadId, n, isChecked()));
        else if (operation === 'delete-thread') await this.timed(operation, store.deleteThread(threadId));
        else {
          for (let task = 0; task < this.spec.shape.tasks; task += 1)
            await this.timed(operation, store.putWrites(threadId, n, task));
        }
      }
      lastThread = threadId;
    }
  }

  private async timed(operation: Operation, answer: Promise<void>): Promise<void> {
    const begin = performance.now();
    await answer;
    if (this.phase === 'timed') this.latenciesMs.push(performance.now() - begin);
    this.acknowledged[operation] = (this.acknowledged[operation] ?? 0) + 1;
  }

  private *walk(): Generator<{ threadId: string; n: number }> {
    const { walk, threads, checkpoints } = this.spec;
    let n = checkpoints - 1;
    let threadId = threads[0] ?? '';
    for (let turn = 0; this.phase !== 'over'; turn += 1) {
      switch (walk.kind) {
        case 'new threads':
          n = turn % walk.steps;
          if (n === 0) threadId = randomUUID();
          break;
        case 'stored threads':
          threadId = threads[Math.floor(Math.random() * threads.length)] ?? '';
          break;
        case 'each thread':
          if (this.taken === threads.length) return;
          threadId = threads[this.taken++] ?? '';
          if (this.taken > threads.length / 10) this.warm();
          break;
        case 'append':
          n += 1;
      }
      yield { threadId, n };
    }
  }
}

async function openStores({ store, url, shape, page, agents, keys }: LoadSpec): Promise<Store[]> {
  if (store === 'javascript') {
    const { JavaScriptStore } = await import('./javascript-store.js'); // takes a while
    return Array<Store>(agents).fill(new JavaScriptStore(url, shape));
  }
  const requests = new Requests(shape, page);
  return Array.from({ length: agents }, () => new HttpStore(url, requests, keys));
}

function print(event: LoadEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

const spec = JSON.parse(await text(process.stdin)) as LoadSpec;
print({ event: 'result', result: await new Load(spec).run() });
process.exit(); // with connections open
