import { DomainError, QueueFullError } from '../checkpoints/checkpoint.errors.js';

/** A kind of request, as the queue sees it. */
export interface Kind<Request> {
  /** Carries out all of them with one statement, or none. */
  run: (requests: Request[]) => Promise<void>;
  /** Absent: each request has a statement of its own. */
  merge?: {
    /** What a request stores; two of one thread that have a slot in common never share a statement. */
    slotsOf: (request: Request) => string[];
    rowsOf: (request: Request) => number;
    bytesOf: (request: Request) => number;
  };
}

export interface QueueOptions {
  /** Statements that may run at once. */
  slots: number;
  /** Requests that may wait for them. */
  max: number;
  /** How long one may wait, in milliseconds. */
  waitMs: number;
  /** Asked about each request that waited so long: why to give it up, or null to ask again later. */
  giveUp: () => Error | null;
  /** Whether requests are merged. */
  merge: boolean;
  observer?: QueueObserver;
  /** Absent: nobody follows requests. */
  tracing?: StatementTracing | undefined;
}

/** Is told what the queue does. */
export interface QueueObserver {
  /** A request has had its turn, after so many milliseconds. */
  waited: (milliseconds: number) => void;
  /** A statement begins that may be shared, for so many requests. */
  shared: (requests: number) => void;
  refused: (reason: 'full' | 'timeout' | 'outage') => void;
}

/** Follows requests through the queue, for traces. */
export interface StatementTracing {
  /** The request on whose behalf this runs; undefined when it is not followed. */
  current: () => unknown;
  /** The request has had its turn. */
  begun: (request: Followed) => void;
  /** Runs a statement of the requests. */
  statement: (requests: Followed[], work: () => Promise<void>) => Promise<void>;
  /** The request waited in vain. */
  gaveUp: (request: Followed, reason: Error) => void;
}

/** A request in the queue, and since when, as `performance.now()` has it. */
export interface Followed {
  trace?: unknown;
  since: number;
}

/** Statements of a merged kind that run at once: two keep Postgres busy, and let the others gather meanwhile. */
const LANES = 2;
/** The bounds of a merged statement. A request beyond them has a statement of its own. */
const MAX_REQUESTS = 64;
const MAX_REQUESTS_OF_A_THREAD = 16;
const MAX_ROWS = 1024;
const MAX_BYTES = 1024 * 1024;

const ASK_AGAIN_MS = 250;

interface Waiting<Request> extends Followed {
  request: Request;
  /** Its place in the order of arrival. */
  arrival: number;
  timer?: NodeJS.Timeout;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/**
 * The queue in front of the connection pool. Requests are begun in the order in which they came, but threads take turns,
 * so that one which floods the service delays the others by a statement at most. While statements of a kind that can be
 * merged are under way, further requests of that kind gather, and the next statement carries them out together: at 64
 * agents that halves what Postgres spends on each. An idle service merges nothing and delays nothing.
 *
 * Merged requests of one thread are carried out in the order in which they came.
 */
export class RequestQueue {
  private readonly lines = new Map<object, Line<never>>();
  private arrivals = 0;
  private running = 0;
  private waiting = 0;

  constructor(private readonly options: QueueOptions) {}

  /** Resolves when the request was carried out. @throws QueueFullError, what `giveUp` says, what the statement threw */
  add<Request>(kind: Kind<Request>, thread: string, request: Request): Promise<void> {
    const { max, slots, waitMs, observer, tracing } = this.options;
    if (this.running + this.waiting >= slots + max) {
      observer?.refused('full');
      return Promise.reject(new QueueFullError(`${max} requests wait for a connection already`));
    }
    const line = this.lineOf(kind);
    return new Promise((resolve, reject) => {
      const waiting: Waiting<Request> = {
        request,
        arrival: this.arrivals++,
        since: performance.now(),
        trace: tracing?.current(),
        resolve,
        reject,
      };
      line.push(thread, waiting);
      this.waiting += 1;
      this.begin();
      if (line.holds(thread, waiting)) {
        waiting.timer = setTimeout(() => {
          this.expire(line, thread, waiting);
        }, waitMs).unref();
      }
    });
  }

  /** Requests that wait for a connection. */
  get length(): number {
    return this.waiting;
  }

  private lineOf<Request>(kind: Kind<Request>): Line<Request> {
    let line = this.lines.get(kind) as unknown as Line<Request> | undefined;
    if (line === undefined) {
      line = new Line(this.options.merge ? kind : { run: kind.run });
      this.lines.set(kind, line as unknown as Line<never>);
    }
    return line;
  }

  private begin(): void {
    while (this.running < this.options.slots) {
      let next: Line<never> | undefined;
      for (const line of this.lines.values()) if (line.next < (next?.next ?? Infinity)) next = line;
      if (next === undefined) return;
      void this.carryOut(next);
    }
  }

  private async carryOut<Request>(line: Line<Request>): Promise<void> {
    const turns = line.take();
    const members = [...turns.values()].flat();
    this.running += 1;
    this.waiting -= members.length;
    this.observe(line.kind, members);
    try {
      await this.run(line.kind, members);
      for (const { resolve } of members) resolve();
    } catch (error) {
      await this.settle(line.kind, members, error);
    }
    line.done(turns.keys());
    this.running -= 1;
    this.begin();
  }

  private observe<Request>({ merge }: Kind<Request>, members: Waiting<Request>[]): void {
    const { observer, tracing } = this.options;
    const now = performance.now();
    for (const member of members) {
      clearTimeout(member.timer);
      observer?.waited(now - member.since);
      tracing?.begun(member);
    }
    if (merge !== undefined) observer?.shared(members.length);
  }

  private run<Request>(kind: Kind<Request>, members: Waiting<Request>[]): Promise<void> {
    const { tracing } = this.options;
    const work = () => kind.run(members.map(({ request }) => request));
    return tracing === undefined ? work() : tracing.statement(members, work);
  }

  /** Each request by itself, since one of them is to blame, and fails alone. */
  private async settle<Request>(
    kind: Kind<Request>,
    members: Waiting<Request>[],
    error: unknown,
  ): Promise<void> {
    // What says nothing of a single request, such as a database that is away, is true of all of them.
    const alike = members.length === 1 || error instanceof DomainError;
    for (const member of members) {
      const { resolve, reject } = member;
      await (alike ? Promise.reject(error as Error) : this.run(kind, [member])).then(resolve, reject);
    }
  }

  private expire<Request>(line: Line<Request>, thread: string, waiting: Waiting<Request>): void {
    const reason = this.options.giveUp();
    if (reason === null) {
      waiting.timer = setTimeout(() => {
        this.expire(line, thread, waiting);
      }, ASK_AGAIN_MS).unref();
      return;
    }
    line.remove(thread, waiting);
    this.waiting -= 1;
    this.options.observer?.refused(reason instanceof QueueFullError ? 'timeout' : 'outage');
    this.options.tracing?.gaveUp(waiting, reason);
    waiting.reject(reason);
  }
}

/** The waiting requests of one kind, by thread. */
class Line<Request> {
  /** In the order of their turns. */
  private readonly ready = new Map<string, Waiting<Request>[]>();
  /** Threads with a merged request under way; what came since then waits for it. */
  private readonly busy = new Map<string, Waiting<Request>[]>();
  private running = 0;

  constructor(readonly kind: Kind<Request>) {}

  push(thread: string, waiting: Waiting<Request>): void {
    const others = this.busy.get(thread) ?? this.ready.get(thread);
    if (others === undefined) this.ready.set(thread, [waiting]);
    else others.push(waiting);
  }

  holds(thread: string, waiting: Waiting<Request>): boolean {
    return (this.busy.get(thread) ?? this.ready.get(thread))?.includes(waiting) ?? false;
  }

  remove(thread: string, waiting: Waiting<Request>): void {
    const others = this.busy.get(thread) ?? this.ready.get(thread) ?? [];
    others.splice(others.indexOf(waiting), 1);
    if (others.length === 0) this.ready.delete(thread);
  }

  /** The place of the request whose turn it is; Infinity when none may begin. */
  get next(): number {
    if (this.kind.merge !== undefined && this.running === LANES) return Infinity;
    for (const [first] of this.ready.values()) return first?.arrival ?? Infinity;
    return Infinity;
  }

  /** Takes what is to begin now, by thread. `done` has to follow. */
  take(): Map<string, Waiting<Request>[]> {
    this.running += 1;
    const turns = new Map<string, Waiting<Request>[]>();
    const room = { requests: MAX_REQUESTS, rows: MAX_ROWS, bytes: MAX_BYTES };
    for (const [thread, waiting] of this.ready) {
      const fit = this.kind.merge === undefined ? 0 : fitting(waiting, this.kind.merge, room);
      if (fit === 0 && turns.size > 0) break;
      turns.set(thread, waiting.splice(0, fit || 1));
      this.ready.delete(thread);
      if (this.kind.merge !== undefined) this.busy.set(thread, waiting);
      else if (waiting.length > 0) this.ready.set(thread, waiting);
      if (fit === 0) break;
    }
    return turns;
  }

  done(threads: Iterable<string>): void {
    this.running -= 1;
    for (const thread of threads) {
      const waiting = this.busy.get(thread);
      this.busy.delete(thread);
      if (waiting !== undefined && waiting.length > 0) this.ready.set(thread, waiting);
    }
  }
}

/** How many of the first ones fit into the room that is left, which they are taken off. */
function fitting<Request>(
  waiting: Waiting<Request>[],
  merge: NonNullable<Kind<Request>['merge']>,
  room: { requests: number; rows: number; bytes: number },
): number {
  const taken = new Set<string>();
  let count = 0;
  for (const { request } of waiting) {
    const slots = merge.slotsOf(request);
    const rows = merge.rowsOf(request);
    const bytes = merge.bytesOf(request);
    if (room.requests === 0 || count === MAX_REQUESTS_OF_A_THREAD || rows > room.rows || bytes > room.bytes)
      break;
    if (slots.some((slot) => taken.has(slot))) break;
    for (const slot of slots) taken.add(slot);
    room.requests -= 1;
    room.rows -= rows;
    room.bytes -= bytes;
    count += 1;
  }
  return count;
}
