import { setImmediate } from 'node:timers/promises';
import { DomainError, QueueFullError, QueueTimeoutError } from '../checkpoints/checkpoint.errors.js';
import { Caller, CallerGoneError, Tenancy } from '../http/caller.js';

/** How a statement is to be carried out. */
export interface Mode {
  /** It carries out several requests, so that it must not wait for what one of them alone is about. */
  isShared: boolean;
  /** How long it may wait for a lock, in milliseconds. */
  lockWaitMs: number;
}

/** A kind of request, as the queue sees it. */
export interface Kind<Request> {
  /**
   * Carries out the requests with one statement. Resolves with those that were not carried out, and left nothing behind,
   * since their thread was locked. When it rejects, none was carried out.
   */
  // eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- most kinds know of no locked thread
  run: (requests: Request[], mode: Mode) => Promise<ReadonlySet<Request> | void>;
  /** Its requests read nothing, so they begin also while answers take all the memory. */
  isStore?: boolean;
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
  /** Of the statements, those that may run for one tenant; null: all, and all but one once there is another tenant. */
  tenantSlots: number | null;
  /** How long one may wait, in milliseconds. */
  waitMs: number;
  /** Asked about each request that waited so long: why to give it up, or null to ask again later. */
  giveUp: () => Error | null;
  /** Whether requests are merged. */
  merge: boolean;
  /** While it holds, with so many statements under way, none is begun that reads; `begin` is to be called when it no longer does. */
  isHeld?: (running: number) => boolean;
  /** The same of one tenant; it may hold even while nothing of it is under way. */
  isTenantHeld?: (tenant: string, running: number) => boolean;
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
  /** `share`: there is room, but for other tenants. */
  refused: (reason: 'full' | 'share' | 'timeout' | 'outage') => void;
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
/** A statement that takes longer waits for something, such as a lock, and then takes none of the other tenants' lanes. */
const SLOW_MS = 250;
/** How long one that is not shared waits for a lock. */
const LOCK_WAIT_MS = 1000;
/** The bounds of a merged statement. A request beyond them has a statement of its own. */
const MAX_REQUESTS = 64;
const MAX_REQUESTS_OF_A_THREAD = 16;
const MAX_ROWS = 1024;
const MAX_BYTES = 1024 * 1024;

const ASK_AGAIN_MS = 250;

/** Counts across the lines, so that a thread that had its turn in one is behind those that wait in another. */
let turnsGiven = 0;

interface Waiting<Request> extends Followed {
  request: Request;
  thread: string;
  tenant: Tenant;
  caller: Caller;
  begun: boolean;
  timer: NodeJS.Timeout | undefined;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** Whose requests wait. The one that had the fewest turns since the others wait is next. */
interface Tenant {
  name: string;
  turns: number;
  waiting: number;
  /** Statements under way that were its turn, whoever else shares them. */
  running: number;
}

/** Whether its share leaves room for one more statement. */
type MayBegin = (tenant: Tenant) => boolean;

/** Requests of a thread, in their order, and when their turn came up, in the order of all turns. */
interface Turn<Request> {
  at: number;
  waiting: Waiting<Request>[];
}

/**
 * The queue in front of the connection pool. Requests are begun in the order in which they came, but tenants take turns,
 * and inside a tenant threads do, whatever the kinds: one which floods the service delays the others by a statement at
 * most. A tenant whose share of the connections is in use waits until one of its statements ends. While statements of a
 * kind that can be merged are under way, further requests of that kind gather, and the next statement carries them out
 * together: at 64 agents that halves what Postgres spends on each. An idle service merges nothing and delays nothing.
 *
 * Merged requests of one thread are carried out in the order in which they came. A request whose caller is gone leaves.
 */
export class RequestQueue {
  private readonly lines = new Map<object, Line<never>>();
  /** Those with a request that waits, or that has a statement under way. */
  private readonly tenants = new Map<string, Tenant>();
  /** The turns that the tenant had which was last to begin a request: where a tenant begins that has not waited. */
  private turns = 0;
  private running = 0;
  private waiting = 0;
  private readonly tenancy = new Tenancy();
  private tenantSlots: number;

  constructor(private readonly options: QueueOptions) {
    this.tenantSlots = options.tenantSlots ?? options.slots;
  }

  /**
   * Resolves when the request was carried out.
   *
   * @throws QueueFullError, CallerGoneError, what `giveUp` says, what the statement threw
   */
  add<Request>(
    kind: Kind<Request>,
    thread: string,
    request: Request,
    caller: Caller = new Caller(),
  ): Promise<void> {
    const { max, slots, waitMs, observer, tracing } = this.options;
    if (caller.isGone) return Promise.reject(new CallerGoneError());
    const room = slots + max - this.running - this.waiting;
    if (room <= 0) {
      observer?.refused('full');
      return Promise.reject(
        new QueueFullError(`${max} requests wait for a connection already, as many as QUEUE_MAX allows`),
      );
    }
    const tenant = this.tenantOf(caller.tenant);
    if (this.tenancy.isShared && tenant.waiting >= room) {
      observer?.refused('share');
      return Promise.reject(
        new QueueFullError(
          `${tenant.waiting} requests of this tenant wait for a connection already, and others need the room that is left`,
        ),
      );
    }
    const line = this.lineOf(kind);
    return new Promise((resolve, reject) => {
      const waiting: Waiting<Request> = {
        request,
        thread,
        tenant,
        caller,
        begun: false,
        since: performance.now(),
        trace: tracing?.current(),
        timer: undefined,
        resolve,
        reject,
      };
      line.push(waiting);
      this.waiting += 1;
      tenant.waiting += 1;
      this.begin();
      if (waiting.begun) return;
      caller.onGone = () => {
        clearTimeout(waiting.timer);
        this.remove(line, waiting, new CallerGoneError());
      };
      waiting.timer = setTimeout(() => {
        this.expire(line, waiting);
      }, waitMs).unref();
    });
  }

  /** Requests that wait for a connection. */
  get length(): number {
    return this.waiting;
  }

  /** Begins what may begin, once `isHeld` no longer holds. */
  begin(): void {
    while (this.running < this.options.slots) {
      const isHeld = this.options.isHeld?.(this.running) === true;
      let next: Line<never> | undefined;
      let first: Waiting<never> | null = null;
      let at = Infinity;
      for (const line of this.lines.values()) {
        if (isHeld && line.kind.isStore !== true) continue;
        const turn = line.first(this.mayBegin(line.kind));
        if (turn === null) continue;
        const [candidate] = turn.waiting;
        const byTenant = first === null ? -1 : (candidate?.tenant.turns ?? Infinity) - first.tenant.turns;
        if (byTenant < 0 || (byTenant === 0 && turn.at < at)) {
          [next, first, at] = [line, candidate ?? null, turn.at];
        }
      }
      if (next === undefined) return;
      void this.carryOut(next);
    }
  }

  private mayBegin({ isStore }: Pick<Kind<never>, 'isStore'>): MayBegin {
    return isStore === true ? this.hasSlot : this.mayRead;
  }

  private readonly hasSlot: MayBegin = ({ running }) => running < this.tenantSlots;

  private readonly mayRead: MayBegin = (tenant) =>
    this.hasSlot(tenant) && this.options.isTenantHeld?.(tenant.name, tenant.running) !== true;

  private lineOf<Request>(kind: Kind<Request>): Line<Request> {
    let line = this.lines.get(kind) as unknown as Line<Request> | undefined;
    if (line === undefined) {
      line = new Line(kind, this.options.merge);
      this.lines.set(kind, line as unknown as Line<never>);
    }
    return line;
  }

  private tenantOf(name: string): Tenant {
    let tenant = this.tenants.get(name);
    if (tenant === undefined) {
      tenant = { name, turns: 0, waiting: 0, running: 0 };
      this.tenants.set(name, tenant);
    }
    if (this.tenancy.becomesShared(name)) {
      this.tenantSlots = this.options.tenantSlots ?? Math.max(1, this.options.slots - 1);
    }
    if (tenant.waiting === 0) tenant.turns = Math.max(tenant.turns, this.turns);
    return tenant;
  }

  private async carryOut<Request>(line: Line<Request>): Promise<void> {
    const members = line.take(this.mayBegin(line.kind));
    const [{ tenant }] = members as [Waiting<Request>];
    this.running += 1;
    tenant.running += 1;
    this.turns = Math.max(this.turns, tenant.turns);
    for (const waiting of members) {
      waiting.begun = true;
      waiting.caller.onGone = null;
      this.leave(waiting.tenant);
    }
    this.observe(line.kind, members);
    const slow =
      line.kind.merge &&
      setTimeout(() => {
        line.becomesSlow(members);
        this.begin();
      }, SLOW_MS).unref();
    try {
      const locked = await this.run(line.kind, members);
      const isLocked = ({ request }: Waiting<Request>) => locked?.has(request) === true;
      for (const member of members) if (!isLocked(member)) member.resolve();
      for (const member of members.filter(isLocked)) await this.alone(line.kind, member);
    } catch (error) {
      await this.settle(line.kind, members, error);
    }
    clearTimeout(slow);
    line.done(members);
    if (line.isIdle) this.lines.delete(line.key);
    // What was read is counted as an answer in a moment only.
    if (this.options.isTenantHeld?.(tenant.name, tenant.running) === true) await setImmediate();
    this.running -= 1;
    // It is given nothing later for the time in which its share was in use.
    if (tenant.running >= this.tenantSlots) tenant.turns = Math.max(tenant.turns, this.turns);
    tenant.running -= 1;
    this.forget(tenant);
    this.begin();
  }

  private leave(tenant: Tenant): void {
    this.waiting -= 1;
    tenant.waiting -= 1;
    this.forget(tenant);
  }

  private forget({ name, waiting, running }: Tenant): void {
    if (waiting === 0 && running === 0 && name !== '') this.tenants.delete(name);
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

  private async run<Request>(
    kind: Kind<Request>,
    members: Waiting<Request>[],
  ): Promise<ReadonlySet<Request> | undefined> {
    const isShared = members.length > 1;
    const mode = { isShared, lockWaitMs: isShared ? SLOW_MS : LOCK_WAIT_MS };
    let locked: ReadonlySet<Request> | undefined;
    const work = async () => {
      locked =
        (await kind.run(
          members.map(({ request }) => request),
          mode,
        )) ?? undefined;
    };
    await (this.options.tracing?.statement(members, work) ?? work());
    return locked;
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
      if (alike) member.reject(error);
      else await this.alone(kind, member);
    }
  }

  private async alone<Request>(kind: Kind<Request>, member: Waiting<Request>): Promise<void> {
    try {
      await this.run(kind, [member]);
      member.resolve();
    } catch (error) {
      member.reject(error);
    }
  }

  private expire<Request>(line: Line<Request>, waiting: Waiting<Request>): void {
    const reason = this.options.giveUp();
    if (reason === null) {
      waiting.timer = setTimeout(() => {
        this.expire(line, waiting);
      }, ASK_AGAIN_MS).unref();
      return;
    }
    waiting.caller.onGone = null;
    this.options.observer?.refused(reason instanceof QueueTimeoutError ? 'timeout' : 'outage');
    this.options.tracing?.gaveUp(waiting, reason);
    this.remove(line, waiting, reason);
  }

  private remove<Request>(line: Line<Request>, waiting: Waiting<Request>, reason: Error): void {
    line.remove(waiting);
    this.leave(waiting.tenant);
    waiting.reject(reason);
  }
}

/** The waiting requests of one kind, by tenant and thread. */
class Line<Request> {
  /** The threads of each tenant, in the order of their turns. */
  private readonly ready = new Map<string, Map<string, Turn<Request>>>();
  /** Threads with a merged request under way; what came since then waits for it. */
  private readonly busy = new Map<string, Waiting<Request>[]>();
  /** The statements under way, and whose turn each was. */
  private readonly running: { members: Waiting<Request>[]; tenant: Tenant; isSlow: boolean }[] = [];

  readonly kind: Kind<Request>;

  constructor(
    /** What the queue knows it by. */
    readonly key: Kind<Request>,
    isMerged: boolean,
  ) {
    this.kind = isMerged ? key : { run: key.run, isStore: key.isStore === true };
  }

  push(waiting: Waiting<Request>): void {
    const { thread, tenant } = waiting;
    const others = this.busy.get(thread) ?? this.ready.get(tenant.name)?.get(thread)?.waiting;
    if (others === undefined) this.enqueue(tenant.name, thread, [waiting]);
    else others.push(waiting);
  }

  remove(waiting: Waiting<Request>): void {
    const { thread, tenant } = waiting;
    const threads = this.ready.get(tenant.name);
    const others = this.busy.get(thread) ?? threads?.get(thread)?.waiting ?? [];
    others.splice(others.indexOf(waiting), 1);
    if (others.length > 0 || threads === undefined) return;
    threads.delete(thread);
    if (threads.size === 0) this.ready.delete(tenant.name);
  }

  get isIdle(): boolean {
    return this.running.length === 0 && this.ready.size === 0;
  }

  /** Takes what is to begin now. `done` has to follow. */
  take(mayBegin: MayBegin): Waiting<Request>[] {
    const members: Waiting<Request>[] = [];
    const room = { requests: MAX_REQUESTS, rows: MAX_ROWS, bytes: MAX_BYTES };
    for (let turn = this.first(mayBegin); turn !== null; turn = this.first(mayBegin)) {
      const { waiting } = turn;
      const { thread, tenant } = waiting[0] as Waiting<Request>;
      const fit = this.kind.merge === undefined ? 0 : fitting(waiting, this.kind.merge, room);
      if (fit === 0 && members.length > 0) break;
      const taken = waiting.splice(0, fit || 1);
      members.push(...taken);
      tenant.turns += taken.length;
      const threads = this.ready.get(tenant.name);
      threads?.delete(thread);
      if (threads?.size === 0) this.ready.delete(tenant.name);
      if (this.kind.merge !== undefined) this.busy.set(thread, waiting);
      else if (waiting.length > 0) this.enqueue(tenant.name, thread, waiting);
      if (fit === 0) break;
    }
    const [{ tenant }] = members as [Waiting<Request>];
    this.running.push({ members, tenant, isSlow: false });
    return members;
  }

  becomesSlow(members: Waiting<Request>[]): void {
    for (const statement of this.running) if (statement.members === members) statement.isSlow = true;
  }

  done(members: Waiting<Request>[]): void {
    this.running.splice(
      this.running.findIndex((statement) => statement.members === members),
      1,
    );
    for (const { thread, tenant } of members) {
      const waiting = this.busy.get(thread);
      this.busy.delete(thread);
      if (waiting !== undefined && waiting.length > 0) this.enqueue(tenant.name, thread, waiting);
    }
  }

  private enqueue(tenant: string, thread: string, waiting: Waiting<Request>[]): void {
    let threads = this.ready.get(tenant);
    if (threads === undefined) {
      threads = new Map();
      this.ready.set(tenant, threads);
    }
    threads.set(thread, { at: turnsGiven++, waiting });
  }

  private hasLane(tenant: Tenant): boolean {
    if (this.kind.merge === undefined || this.running.length < LANES) return true;
    let taken = 0;
    for (const { tenant: other, isSlow } of this.running) if (other === tenant || !isSlow) taken += 1;
    return taken < LANES;
  }

  /**
   * Of the tenants whose share is not in use the one with the fewest turns, and of that the thread that is first; null when
   * none may begin.
   */
  first(mayBegin: MayBegin): Turn<Request> | null {
    let first: Turn<Request> | null = null;
    let turns = Infinity;
    for (const threads of this.ready.values()) {
      for (const turn of threads.values()) {
        const [{ tenant }] = turn.waiting as [Waiting<Request>];
        if (tenant.turns < turns && this.hasLane(tenant) && mayBegin(tenant))
          [first, turns] = [turn, tenant.turns];
        break;
      }
    }
    return first;
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
