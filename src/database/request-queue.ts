import { setImmediate } from 'node:timers/promises';
import {
  DatabaseUnavailableError,
  DomainError,
  QueueFullError,
  QueueTimeoutError,
  StatementTimeoutError,
} from '../errors/errors.js';
import { Caller, CallerGoneError, Tenancy } from '../request/caller.js';
import { NoRoomError } from '../request/read-memory.js';
import { faultOf, isLockTimeout } from './faults.js';
import {
  type Candidate,
  type Followed,
  type Kind,
  Line,
  type Need,
  type Running,
  type Shares,
  type Tenant,
  type Waiting,
} from './request-line.js';

export type { Kind, Mode } from './request-line.js';

export interface QueueOptions {
  /** Statements that may run at once. */
  slots: number;
  /** Requests that may wait for them. */
  max: number;
  /** Of the statements, those that may run for one tenant; null: all, and all but one once there is another tenant. */
  tenantSlots: number | null;
  /** How long one may wait, in milliseconds. */
  waitMs: number;
  /** How long a request whose rows or thread are locked is sent again, in milliseconds. */
  lockWaitMs: number;
  /** Asked about each request that waited so long: why to give it up, or null to ask again later. */
  giveUp: () => Error | null;
  /** Whether requests are merged. */
  merge: boolean;
  /** While it holds, with so many statements under way, none is begun that reads; `begin` is to be called when it no longer does. */
  isHeld?: (running: number) => boolean;
  /** The same of one tenant; it may hold even while nothing of it is under way. */
  isTenantHeld?: (tenant: string, running: number) => boolean;
  /** Whether a large read is under way that is older, so that one which found no memory does not begin again. */
  isReading?: (since: number) => boolean;
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
  statement: <T>(requests: Followed[], work: () => Promise<T>) => Promise<T>;
  /** The request waited in vain. */
  gaveUp: (request: Followed, reason: Error) => void;
}

/** A statement that takes longer waits for something, such as a lock, and then keeps no other from beginning. */
const SLOW_MS = 250;
/** How long a statement may wait for a lock: at first, and once it is known to, in one of the few connections for that. */
const LOCK_MS = 250;
const PATIENT_LOCK_MS = 1000;
/** Before a request is sent again that came upon a lock. Doubled each time. */
const FIRST_BACKOFF_MS = 25;
const MAX_BACKOFF_MS = 1000;
/** Statements into which a shared one is divided that failed, to find out whose fault it was. */
const PARTS = 8;
/** For how long a tenant whose statement failed shares none with others. */
const SUSPECT_MS = 10_000;
const MAX_SUSPECTS = 1000;

const ASK_AGAIN_MS = 250;
/** Places beyond `max` for tenants of which nothing waits, each one: others may have filled the queue before there were shares. */
const RESERVE = 64;

/**
 * The queue in front of the connection pool. Requests are begun in the order in which they came, but tenants take turns,
 * and inside a tenant threads do, whatever the kinds: one which floods the service delays the others by a statement at
 * most. A tenant whose share of the connections is in use waits until one of its statements ends. While statements of a
 * kind that can be merged are under way, further requests of that kind gather, and the next statement carries them out
 * together: at 64 agents that halves what Postgres spends on each. An idle service merges nothing and delays nothing.
 *
 * Merged requests of one thread are carried out in the order in which they came. A request whose caller is gone leaves.
 *
 * A request fails alone. When a shared statement fails, its requests are sent again by tenant, then in parts, then one by
 * one, all in turns with other requests; and a tenant whose own statement failed shares none with others for a while. A
 * request that comes upon a lock gives its connection back, and is sent again later, in one of half of the connections, so
 * that however many threads are locked, the others go on. A read that found no memory for its rows begins again when no
 * older large read is under way.
 */
export class RequestQueue {
  private readonly lines = new Map<object, Line<never>>();
  /** Those with a request that waits, or that has a statement under way. */
  private readonly tenants = new Map<string, Tenant>();
  /** The turns that the tenant had which was last to begin a request: where a tenant begins that has not waited. */
  private turns = 0;
  private running = 0;
  private waiting = 0;
  /** Whether one is under way that found no memory before: they go one by one. */
  private isGreedy = false;
  /** Statements under way that are known to wait for locks, and how many there may be. */
  private patient = 0;
  private readonly maxPatient: number;
  private readonly tenancy = new Tenancy();
  private tenantSlots: number;
  /** Until when tenants are, by name, as `performance.now()` has it. */
  private readonly suspects = new Map<string, number>();

  constructor(private readonly options: QueueOptions) {
    this.tenantSlots = options.tenantSlots ?? options.slots;
    this.maxPatient = half(options.slots);
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
    const isAmongOthers = this.waiting > 0 && (this.tenants.get(caller.tenant)?.waiting ?? 0) === 0;
    const hasReserve = isAmongOthers && room > -RESERVE;
    if (room <= 0 && !hasReserve) {
      observer?.refused('full');
      return Promise.reject(
        new QueueFullError(`${max} requests wait for a connection already, as many as QUEUE_MAX allows`),
      );
    }
    const tenant = this.tenantOf(caller.tenant);
    if (this.tenancy.isShared && tenant.waiting >= room && !hasReserve) {
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
        hasBegun: false,
        againSince: null,
        tries: 0,
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
      let next: { line: Line<never>; candidate: Candidate<never> } | undefined;
      for (const line of this.lines.values()) {
        if (isHeld && line.kind.isStore !== true) continue;
        const candidate = line.first();
        if (candidate !== null && (next === undefined || isBefore(candidate, next.candidate))) {
          next = { line, candidate };
        }
      }
      if (next === undefined) return;
      void this.carryOut(next.line, next.candidate);
    }
  }

  private readonly shares: Shares = {
    mayBegin: ({ name, running }, isStore) =>
      running < this.tenantSlots && (isStore || this.options.isTenantHeld?.(name, running) !== true),
    mayWait: ({ patient }) =>
      this.patient < this.maxPatient && (!this.tenancy.isShared || patient < half(this.maxPatient)),
    mayRead: (since) => !this.isGreedy && this.options.isReading?.(since) !== true,
    isSuspect: ({ name }) => this.suspects.size > 0 && (this.suspects.get(name) ?? 0) > performance.now(),
  };

  private lineOf<Request>(kind: Kind<Request>): Line<Request> {
    let line = this.lines.get(kind) as unknown as Line<Request> | undefined;
    if (line === undefined) {
      line = new Line(kind, this.options.merge, this.shares, half(this.options.slots));
      this.lines.set(kind, line as unknown as Line<never>);
    }
    return line;
  }

  private tenantOf(name: string): Tenant {
    let tenant = this.tenants.get(name);
    if (tenant === undefined) {
      tenant = { name, turns: 0, waiting: 0, running: 0, patient: 0 };
      this.tenants.set(name, tenant);
    }
    if (this.tenancy.becomesShared(name)) {
      this.tenantSlots = this.options.tenantSlots ?? Math.max(1, this.options.slots - 1);
    }
    if (tenant.waiting === 0) tenant.turns = Math.max(tenant.turns, this.turns);
    return tenant;
  }

  private async carryOut<Request>(line: Line<Request>, candidate: Candidate<Request>): Promise<void> {
    const statement = line.take(candidate);
    const { members, tenant, waitedFor } = statement;
    const isPatient = waitedFor === 'lock';
    this.running += 1;
    tenant.running += 1;
    if (isPatient) {
      this.patient += 1;
      tenant.patient += 1;
    }
    if (waitedFor === 'memory') this.isGreedy = true;
    this.turns = Math.max(this.turns, tenant.turns);
    for (const waiting of members) {
      waiting.begun = true;
      waiting.caller.onGone = null;
      this.leave(waiting.tenant);
    }
    this.observe(line.kind, members);
    const slow = setTimeout(() => {
      statement.isSlow = true;
      this.begin();
    }, SLOW_MS).unref();
    try {
      const locked = await this.run(line.kind, statement);
      for (const member of members) {
        if (locked instanceof Set && locked.has(member.request)) this.waitFor('lock', line, member);
        else this.answer(line, member, member.resolve);
      }
    } catch (error) {
      this.settle(line, members, error);
    }
    clearTimeout(slow);
    line.end(statement);
    if (line.isIdle) this.lines.delete(line.key);
    // What was read is counted as an answer in a moment only.
    if (waitedFor === 'memory' || this.options.isTenantHeld?.(tenant.name, tenant.running) === true)
      await setImmediate();
    if (waitedFor === 'memory') this.isGreedy = false;
    this.running -= 1;
    // It is given nothing later for the time in which its share was in use.
    if (tenant.running >= this.tenantSlots) tenant.turns = Math.max(tenant.turns, this.turns);
    tenant.running -= 1;
    if (isPatient) {
      this.patient -= 1;
      tenant.patient -= 1;
    }
    this.forget(tenant);
    this.begin();
  }

  private answer<Request>(line: Line<Request>, member: Waiting<Request>, answer: () => void): void {
    line.done(member);
    answer();
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
      if (member.hasBegun) continue;
      member.hasBegun = true;
      observer?.waited(now - member.since);
      tracing?.begun(member);
    }
    if (merge !== undefined) observer?.shared(members.length);
  }

  private run<Request>(
    kind: Kind<Request>,
    { members, tenant, waitedFor }: Running<Request>,
  ): ReturnType<Kind<Request>['run']> {
    const { tracing } = this.options;
    const mode = {
      tenant: tenant.name,
      since: members[0]?.againSince ?? performance.now(),
      isShared: members.length > 1,
      lockWaitMs: waitedFor === 'lock' ? PATIENT_LOCK_MS : LOCK_MS,
    };
    const work = () =>
      kind.run(
        members.map(({ request }) => request),
        mode,
      );
    return tracing === undefined ? work() : tracing.statement(members, work);
  }

  /** Of several requests any may be to blame: they are sent again apart. */
  private settle<Request>(line: Line<Request>, members: Waiting<Request>[], error: unknown): void {
    const [first] = members as [Waiting<Request>];
    const isLocked = isLockTimeout(faultOf(error));
    const hasNoRoom = error instanceof NoRoomError;
    if (isOfAll(error) || (members.length === 1 && !isLocked && !hasNoRoom)) {
      if (!isOfAll(error)) this.suspect(first.tenant);
      for (const member of members) {
        this.answer(line, member, () => {
          member.reject(error);
        });
      }
    } else if (members.length === 1) {
      if (isLocked) this.suspect(first.tenant);
      this.waitFor(hasNoRoom ? 'memory' : 'lock', line, first);
    } else {
      for (const part of partsOf(members)) this.sendAgain(line, part, { waitsFor: null, inMs: 0 });
    }
  }

  private suspect({ name }: Tenant): void {
    if (!this.tenancy.isShared) return;
    this.suspects.delete(name);
    if (this.suspects.size >= MAX_SUSPECTS) this.suspects.delete(this.suspects.keys().next().value ?? '');
    this.suspects.set(name, performance.now() + SUSPECT_MS);
  }

  private waitFor<Request>(what: Need, line: Line<Request>, member: Waiting<Request>): void {
    const wait = Math.min(FIRST_BACKOFF_MS * 2 ** member.tries, MAX_BACKOFF_MS);
    // For a lock the first time at once, in a connection where it may wait.
    const inMs = member.tries === 0 && what === 'lock' ? 0 : wait * (0.5 + Math.random() / 2);
    member.tries += 1;
    this.sendAgain(line, [member], { waitsFor: what, inMs });
  }

  private sendAgain<Request>(
    line: Line<Request>,
    members: Waiting<Request>[],
    { waitsFor, inMs }: { waitsFor: Need | null; inMs: number },
  ): void {
    const { lockWaitMs } = this.options;
    const now = performance.now();
    const waiting = members.filter((member) => {
      if (!member.caller.isGone) return true;
      this.answer(line, member, () => {
        member.reject(new CallerGoneError());
      });
      return false;
    });
    const [first] = waiting;
    if (first === undefined) return;
    const tenant = this.tenantOf(first.tenant.name);
    for (const member of waiting) {
      member.tenant = tenant;
      member.begun = false;
      this.waiting += 1;
      tenant.waiting += 1;
      const giveUp = (reason: Error) => {
        line.remove(member);
        this.leave(member.tenant);
        this.answer(line, member, () => {
          member.reject(reason);
        });
        if (line.isIdle) this.lines.delete(line.key);
        this.begin();
      };
      member.caller.onGone = () => {
        clearTimeout(member.timer);
        giveUp(new CallerGoneError());
      };
      member.againSince ??= now;
      const leftMs = member.againSince + lockWaitMs - now;
      member.timer = setTimeout(
        () => {
          member.caller.onGone = null;
          const why =
            waitsFor === 'memory'
              ? 'Other reads took INFLIGHT_BYTES'
              : 'What the request is about was locked';
          giveUp(new DatabaseUnavailableError(`${why} for over ${lockWaitMs} ms`));
        },
        Math.max(0, leftMs),
      ).unref();
    }
    const group = line.sendAgain({ tenant, members: waiting, waitsFor, isDue: inMs === 0 });
    if (inMs === 0) return;
    setTimeout(() => {
      group.isDue = true;
      this.begin();
    }, inMs).unref();
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
    if (line.isIdle) this.lines.delete(line.key);
    this.leave(waiting.tenant);
    waiting.reject(reason);
  }
}

function half(count: number): number {
  return Math.max(1, Math.floor(count / 2));
}

function isBefore(a: Candidate<never>, b: Candidate<never>): boolean {
  return a.tenant.turns < b.tenant.turns || (a.tenant.turns === b.tenant.turns && a.at < b.at);
}

/** What says nothing of a single request, such as a database that is away, is true of all of them. */
function isOfAll(error: unknown): boolean {
  return error instanceof DomainError && !(error instanceof StatementTimeoutError);
}

/** By tenant; those of one tenant in parts, so that few statements find the one that is to blame. */
function partsOf<Request>(members: Waiting<Request>[]): Waiting<Request>[][] {
  const byTenant = new Map<string, Waiting<Request>[]>();
  for (const member of members) {
    const others = byTenant.get(member.tenant.name);
    if (others === undefined) byTenant.set(member.tenant.name, [member]);
    else others.push(member);
  }
  if (byTenant.size > 1) return [...byTenant.values()];
  const size = Math.ceil(members.length / PARTS);
  return Array.from({ length: Math.ceil(members.length / size) }, (_, n) =>
    members.slice(n * size, (n + 1) * size),
  );
}
