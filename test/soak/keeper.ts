import { Caller, type Store } from './caller.js';
import {
  Comparison,
  idOf,
  listed,
  putOf,
  putWritesOf,
  type Step,
  type Thread,
  type WireTuple,
} from './history.js';

const MIB = 1024 * 1024;
const ALL = ['blobs', 'pending_writes'];
/** Threads that an agent remembers; then the oldest one is compared once more and deleted. */
const MAX_HELD = 5;

/** An agent with threads of its own. It knows what they hold, and compares every answer with that. */
export class Keeper {
  private readonly held: Thread[] = [];
  private threads = 0;

  constructor(
    private readonly name: string,
    private readonly caller: Caller,
    private readonly isOver: () => boolean,
  ) {}

  /** Works until the end. */
  async live(): Promise<void> {
    while (!this.isOver()) {
      const thread = this.newThread();
      this.held.push(thread);
      const steps = thread.blobBytes > MIB ? 3 : 7;
      for (let n = 1; n <= steps && !this.isOver(); n += 1) await this.step(thread, n);
      await this.end(thread);
      await this.check(thread);
      while (this.held.length > MAX_HELD) await this.forget(this.held.shift()!);
    }
  }

  /** Compares everything that is left, by each instance as chance has it. */
  async checkAll(): Promise<void> {
    for (const thread of this.held) await this.check(thread);
  }

  /** Ids are used again: what was stored under them before must not be seen. */
  private newThread(): Thread {
    const { chance, tenant } = this.caller;
    this.threads += 1;
    const number = this.threads % (MAX_HELD + 3);
    const isLarge = chance.is(0.1);
    const id = `${this.name}-${number}`;
    return {
      id,
      label: `${tenant.name}/${id} use ${this.threads}`,
      blobBytes: isLarge ? chance.between(MIB, 8 * MIB) : chance.of([0, 20_000, 300_000]),
      steps: [],
    };
  }

  private async step(thread: Thread, n: number): Promise<void> {
    const { caller } = this;
    const { chance } = caller;
    // Half of a thread is of a run of its own, so that it can be deleted for that.
    const run = `${thread.label} run ${n <= 3 ? 1 : 2}`;
    const step: Step = { n, parent: n === 1 ? null : n - 1, run, isReplaced: chance.is(0.3) };
    const stores: Store[] = [
      ['put-writes', putWritesOf(thread, n, 'task-b', false)], // a fast task is before its checkpoint
      ['put', putOf(thread, step)],
      ['put-writes', putWritesOf(thread, n, 'task-a', false)],
    ];
    if (step.isReplaced) stores.push(['put-writes', putWritesOf(thread, n, 'task-a', true)]);
    if (chance.is(0.2)) stores.push(['put', putOf(thread, step)]); // a retry
    await caller.store(stores);
    thread.steps.push(step);
    const latest = await caller.post('get-tuple', { thread_id: thread.id });
    const comparison = new Comparison(caller, thread);
    comparison.tuple('get-tuple', latest.json as WireTuple | null, step, false);
    if (chance.is(0.5)) {
      const answer = await caller.post('delta-channel-history', { thread_id: thread.id, channels: ['log'] });
      comparison.history(answer.json as never);
    }
    if (chance.is(0.3)) await this.compareNewest(thread, chance.between(1, 4));
  }

  private async compareNewest(thread: Thread, limit: number): Promise<void> {
    const { caller } = this;
    const items = await listed(caller, { thread_id: thread.id, include: ALL }, limit);
    const wanted = thread.steps.slice(-limit).reverse();
    const comparison = new Comparison(caller, thread);
    for (let n = 0; n < Math.max(items.length, wanted.length); n += 1)
      comparison.tuple('list', items[n] ?? null, wanted[n], true);
  }

  /** What becomes of a thread. */
  private async end(thread: Thread): Promise<void> {
    const { caller } = this;
    const last = thread.steps.at(-1);
    if (last === undefined) return;
    switch (caller.chance.between(0, 5)) {
      case 0:
        await caller.post('delete-thread', { thread_id: thread.id });
        thread.steps = [];
        break;
      case 1: {
        const copy = { ...thread, id: `${thread.id}-copy`, steps: thread.steps.map((step) => ({ ...step })) };
        await caller.post('delete-thread', { thread_id: copy.id });
        for (const old of this.held.filter(({ id }) => id === copy.id))
          this.held.splice(this.held.indexOf(old), 1);
        await caller.post('copy-thread', { source_thread_id: thread.id, target_thread_id: copy.id });
        this.held.push(copy);
        await this.check(copy);
        break;
      }
      case 2:
        await caller.post('prune', { thread_ids: [thread.id], strategy: 'keep_latest' });
        prune(thread, last);
        break;
      case 3:
        await caller.post('prune', { thread_ids: [thread.id], strategy: 'delete' });
        thread.steps = [];
        break;
      case 4: {
        const run = `${thread.label} run ${caller.chance.between(1, 2)}`;
        await caller.post('delete-for-runs', { run_ids: [run] });
        thread.steps = thread.steps.filter((step) => step.run !== run);
      }
    }
  }

  /** Compares all that the service says of a thread. */
  private async check(thread: Thread): Promise<void> {
    const { caller } = this;
    await this.compareNewest(thread, Infinity);
    const comparison = new Comparison(caller, thread);
    for (const step of caller.chance.is(0.3) ? thread.steps : []) {
      const answer = await caller.post('get-tuple', { thread_id: thread.id, checkpoint_id: idOf(step.n) });
      comparison.tuple('get-tuple by id', answer.json as WireTuple | null, step, false);
    }
    const answer = await caller.post('delta-channel-history', { thread_id: thread.id, channels: ['log'] });
    comparison.history(answer.json as never);
  }

  private async forget(thread: Thread): Promise<void> {
    await this.check(thread);
    await this.caller.post('delete-thread', { thread_id: thread.id });
    thread.steps = [];
    await this.check(thread);
  }
}

/** Leaves the newest step, and what its log is rebuilt from: the steps back to the one that stored a value of it. */
function prune(thread: Thread, last: Step): void {
  const snapshot = last.n - ((last.n - 1) % 3);
  thread.steps = thread.steps.filter(({ n }) => n >= snapshot);
  const oldest = thread.steps[0];
  if (oldest !== undefined) oldest.parent = null;
}
