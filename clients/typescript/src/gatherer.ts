import { onAbort } from './abort.js';

/** Requests under way beside which a store waits for others. One agent stores at most two things at once, which overlap. */
const LANES = 2;
/** As long as one store that is stuck, such as behind a prune of its thread, may hold up its neighbours. */
const PATIENCE_MS = 2_000;
/** The service takes no more in one request. */
const MAX_STORES = 256;
/** The service lets others have their turn after so much. */
const MAX_LENGTH = 256 * 1024;

/** A store that may go together with others. */
export interface Store {
  operation: string;
  json: string;
  /** The key. */
  caller: string | undefined;
}

interface Waiting<S, Outcome> {
  store: S;
  alone: () => Promise<Outcome>;
  /** Undefined: goes alone. */
  settle: (outcome: Outcome | Promise<Outcome> | undefined) => void;
}

/**
 * Stores that come while others are under way go together. A request costs the agents' process and the service more than what it
 * stores, so from a few agents on `batch` takes less of both; bench/graphs measures how much. Nothing waits for a timer: what comes
 * while a lane is free goes out at once.
 */
export class Gatherer<S extends Store, Outcome> {
  private free = LANES;
  private readonly queue = new Set<Waiting<S, Outcome>>();
  private readonly together: (stores: S[]) => Promise<Outcome[] | undefined>;

  /** @param together what comes of each, in their order; undefined when each has to go alone */
  constructor(together: (stores: S[]) => Promise<Outcome[] | undefined>) {
    this.together = together;
  }

  /** Rejects with the reason of the signal when it is aborted. */
  async attempt(store: S, signal: AbortSignal | undefined, alone: () => Promise<Outcome>): Promise<Outcome> {
    if (this.free > 0) return this.inLane([], alone);
    const outcome = await new Promise<Outcome | undefined>((resolve, reject) => {
      const waiting: Waiting<S, Outcome> = {
        store,
        alone,
        settle: (settled) => {
          forget();
          resolve(settled);
        },
      };
      this.queue.add(waiting);
      const forget = onAbort(signal, () => {
        this.queue.delete(waiting);
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason is the caller's
        reject(signal?.reason);
      });
    });
    return outcome ?? alone();
  }

  /** Runs the request in a place, which is free again after it, or when the patience is over: then the batch's stores go alone. */
  private async inLane<T>(batch: Waiting<S, Outcome>[], request: () => Promise<T>): Promise<T> {
    this.free -= 1;
    let isOver = false;
    const over = () => {
      if (isOver) return;
      isOver = true;
      for (const { settle } of batch) settle(undefined);
      this.free += 1;
      this.next();
    };
    const timer = setTimeout(over, PATIENCE_MS);
    try {
      return await request();
    } finally {
      clearTimeout(timer);
      over();
    }
  }

  private next(): void {
    while (this.free > 0 && this.queue.size > 0) {
      const batch = this.take();
      const [first] = batch;
      if (batch.length === 1 && first !== undefined) first.settle(this.inLane([], first.alone));
      // What it throws, each is thrown alone as well.
      else void this.inLane(batch, () => this.sendTogether(batch)).catch(() => undefined);
    }
  }

  /** What waits for the same caller, in its order. */
  private take(): Waiting<S, Outcome>[] {
    const batch: Waiting<S, Outcome>[] = [];
    let length = 0;
    for (const waiting of this.queue) {
      const { caller, json } = waiting.store;
      if (
        batch.length === MAX_STORES ||
        length >= MAX_LENGTH ||
        caller !== (batch[0] ?? waiting).store.caller
      )
        break;
      this.queue.delete(waiting);
      batch.push(waiting);
      length += json.length;
    }
    return batch;
  }

  private async sendTogether(batch: Waiting<S, Outcome>[]): Promise<void> {
    const outcomes = await this.together(batch.map(({ store }) => store));
    outcomes?.forEach((outcome, at) => {
      batch[at]?.settle(outcome);
    });
  }
}
