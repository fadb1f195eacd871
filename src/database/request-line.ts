import type { Caller } from '../request/caller.js';

/** What a request could not have; it is sent again later. */
export type Need = 'lock' | 'memory';

/** How a statement is to be carried out. */
export interface Mode {
  /** Whose turn it is. */
  tenant: string;
  /** When it began, or its request was first to be sent again, as `performance.now()` has it. */
  since: number;
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
  /** Requests of one thread are carried out one after the other, since they would wait for each other's locks. */
  isSerial?: boolean;
}

/** A request in the queue, and since when, as `performance.now()` has it. */
export interface Followed {
  trace?: unknown;
  since: number;
}

export interface Waiting<Request> extends Followed {
  request: Request;
  thread: string;
  tenant: Tenant;
  caller: Caller;
  begun: boolean;
  /** Whether it had a statement already, so that what follows is not its first. */
  hasBegun: boolean;
  /** When it was to be sent again for the first time, and how often it came upon a lock. */
  againSince: number | null;
  tries: number;
  timer: NodeJS.Timeout | undefined;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** Whose requests wait. The one that had the fewest turns since the others wait is next. */
export interface Tenant {
  name: string;
  turns: number;
  waiting: number;
  /** Statements under way that were its turn, whoever else shares them. */
  running: number;
  /** Of these, the ones that are known to wait for a lock. */
  patient: number;
}

/** What the queue knows of its tenants. */
export interface Shares {
  /** Whether its share leaves room for one more statement. */
  mayBegin: (tenant: Tenant, isStore: boolean) => boolean;
  /** … for one more that is known to wait for a lock. */
  mayWait: (tenant: Tenant) => boolean;
  /** … for a read that found no memory for its rows at that time. */
  mayRead: (since: number) => boolean;
  /** Whether a statement of its own failed lately, so that it shares none with other tenants. */
  isSuspect: (tenant: Tenant) => boolean;
}

/** Requests of a thread, in their order, and when their turn came up, in the order of all turns. */
interface Turn<Request> {
  at: number;
  waiting: Waiting<Request>[];
}

/** Requests of one tenant that are sent again, together and apart from all others. */
interface Group<Request> {
  at: number;
  tenant: Tenant;
  members: Waiting<Request>[];
  /** What is known to wait for a lock may take longer for it, in few of the connections. */
  waitsFor: Need | null;
  /** It waits no longer for a while to pass. */
  isDue: boolean;
}

/** A statement under way, and whose turn it was. */
export interface Running<Request> {
  members: Waiting<Request>[];
  tenant: Tenant;
  waitedFor: Need | null;
  isSlow: boolean;
}

/** What may begin next. */
export interface Candidate<Request> {
  at: number;
  tenant: Tenant;
  from: Turn<Request> | Group<Request>;
}

/** Statements of a merged kind that run at once: two keep Postgres busy, and let the others gather meanwhile. */
const LANES = 2;
/** The bounds of a merged statement. A request beyond them has a statement of its own. */
const MAX_REQUESTS = 64;
const MAX_REQUESTS_OF_A_THREAD = 16;
const MAX_ROWS = 1024;
const MAX_BYTES = 1024 * 1024;

/** Counts across the lines, so that a thread that had its turn in one is behind those that wait in another. */
let turnsGiven = 0;

/** The waiting requests of one kind, by tenant and thread. */
export class Line<Request> {
  /** The threads of each tenant, in the order of their turns. */
  private readonly ready = new Map<string, Map<string, Turn<Request>>>();
  /** Threads with so many requests under way; what came since then waits for them. */
  private readonly busy = new Map<string, { underWay: number; waiting: Waiting<Request>[] }>();
  private readonly running: Running<Request>[] = [];
  private readonly again: Group<Request>[] = [];

  readonly kind: Kind<Request>;

  constructor(
    /** What the queue knows it by. */
    readonly key: Kind<Request>,
    isMerged: boolean,
    private readonly shares: Shares,
    /** Slow statements of a tenant beside which it may begin others. */
    private readonly maxSlow: number,
  ) {
    this.kind = isMerged
      ? key
      : { run: key.run, isStore: key.isStore === true, isSerial: key.isSerial === true };
  }

  push(waiting: Waiting<Request>): void {
    const { thread, tenant } = waiting;
    const others = this.busy.get(thread)?.waiting ?? this.ready.get(tenant.name)?.get(thread)?.waiting;
    if (others === undefined) this.enqueue(tenant.name, thread, [waiting]);
    else others.push(waiting);
  }

  /** Of a request that waits to be sent again, `done` has to follow. */
  remove(waiting: Waiting<Request>): void {
    const { thread, tenant } = waiting;
    const group = this.again.find(({ members }) => members.includes(waiting));
    if (group !== undefined) {
      group.members.splice(group.members.indexOf(waiting), 1);
      if (group.members.length === 0) this.again.splice(this.again.indexOf(group), 1);
      return;
    }
    const threads = this.ready.get(tenant.name);
    const others = this.busy.get(thread)?.waiting ?? threads?.get(thread)?.waiting ?? [];
    const at = others.indexOf(waiting);
    if (at !== -1) others.splice(at, 1);
    if (others.length > 0 || threads === undefined) return;
    threads.delete(thread);
    if (threads.size === 0) this.ready.delete(tenant.name);
  }

  get isIdle(): boolean {
    return this.running.length === 0 && this.ready.size === 0 && this.again.length === 0;
  }

  /** Takes what is to begin now. `end`, and `done` for each request, have to follow. */
  take({ from, tenant }: Candidate<Request>): Running<Request> {
    const isAgain = 'members' in from;
    if (isAgain) this.again.splice(this.again.indexOf(from), 1);
    const members = isAgain ? from.members : this.gather(tenant);
    const statement = { members, tenant, waitedFor: isAgain ? from.waitsFor : null, isSlow: false };
    this.running.push(statement);
    return statement;
  }

  private gather(lead: Tenant): Waiting<Request>[] {
    const members: Waiting<Request>[] = [];
    const room = { requests: MAX_REQUESTS, rows: MAX_ROWS, bytes: MAX_BYTES };
    for (let turn = this.firstTurn(lead); turn !== null; turn = this.firstTurn(lead, true)) {
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
      if (this.isOneByOne(thread)) this.busy.set(thread, { underWay: taken.length, waiting });
      else if (waiting.length > 0) this.enqueue(tenant.name, thread, waiting);
      if (fit === 0) break;
    }
    return members;
  }

  private isOneByOne(thread: string): boolean {
    return this.kind.merge !== undefined || (this.kind.isSerial === true && thread !== '');
  }

  end(statement: Running<Request>): void {
    this.running.splice(this.running.indexOf(statement), 1);
  }

  /** The request is answered, so that its thread goes on. */
  done({ thread, tenant }: Waiting<Request>): void {
    const busy = this.busy.get(thread);
    if (busy === undefined) return;
    busy.underWay -= 1;
    if (busy.underWay > 0) return;
    this.busy.delete(thread);
    if (busy.waiting.length > 0) this.enqueue(tenant.name, thread, busy.waiting);
  }

  sendAgain(group: Omit<Group<Request>, 'at'>): Group<Request> {
    // Older than whatever waits for its first turn.
    const again = { ...group, at: -1 };
    this.again.push(again);
    return again;
  }

  private enqueue(tenant: string, thread: string, waiting: Waiting<Request>[]): void {
    let threads = this.ready.get(tenant);
    if (threads === undefined) {
      threads = new Map();
      this.ready.set(tenant, threads);
    }
    threads.set(thread, { at: turnsGiven++, waiting });
  }

  private mayBegin(tenant: Tenant): boolean {
    return this.shares.mayBegin(tenant, this.kind.isStore === true);
  }

  /** Slow statements wait for something, such as a lock, and keep no lane; nor do a suspect tenant's keep one of others. */
  private hasLane(tenant: Tenant): boolean {
    if (this.kind.merge === undefined || this.running.length < LANES) return true;
    let [taken, slow] = [0, 0];
    for (const { tenant: other, isSlow, waitedFor } of this.running) {
      if (waitedFor === 'lock') continue;
      if (isSlow) slow += other === tenant ? 1 : 0;
      else if (other === tenant || !this.shares.isSuspect(other)) taken += 1;
    }
    return taken < LANES && slow < this.maxSlow;
  }

  /** What holds its own statements up should hold up no other tenant's. */
  private keepsApart(tenant: Tenant): boolean {
    return (
      this.shares.isSuspect(tenant) ||
      this.running.some(
        ({ tenant: other, isSlow, waitedFor }) => other === tenant && (isSlow || waitedFor === 'lock'),
      )
    );
  }

  /**
   * Of the tenants whose share is not in use the one with the fewest turns, and of that what is sent again, what came upon
   * the fewest locks first, else the thread that is first; null when none may begin.
   */
  first(): Candidate<Request> | null {
    let first: Candidate<Request> | null = null;
    let tries = Infinity;
    for (const group of this.again) {
      const { at, tenant, members, waitsFor, isDue } = group;
      const [{ tries: own, againSince }] = members as [Waiting<Request>];
      const isBehind =
        first !== null &&
        (tenant.turns > first.tenant.turns || (tenant.turns === first.tenant.turns && own >= tries));
      if (!isDue || isBehind || !this.mayBegin(tenant)) continue;
      if (this.mayBeSent(waitsFor, tenant, againSince ?? 0)) {
        first = { at, tenant, from: group };
        tries = own;
      }
    }
    const turn = this.firstTurn();
    if (turn === null) return first;
    const [{ tenant }] = turn.waiting as [Waiting<Request>];
    return first !== null && first.tenant.turns <= tenant.turns ? first : { at: turn.at, tenant, from: turn };
  }

  private mayBeSent(waitsFor: Need | null, tenant: Tenant, since: number): boolean {
    if (waitsFor === 'lock') return this.shares.mayWait(tenant);
    return waitsFor === 'memory' ? this.shares.mayRead(since) : this.hasLane(tenant);
  }

  /** `lead`: of what may share its statement; the first of it must be the tenant's own. */
  private firstTurn(lead?: Tenant, mayBeOthers = false): Turn<Request> | null {
    let first: Turn<Request> | null = null;
    let turns = Infinity;
    const isAlone = lead !== undefined && (!mayBeOthers || this.keepsApart(lead));
    for (const threads of this.ready.values()) {
      for (const turn of threads.values()) {
        const [{ tenant }] = turn.waiting as [Waiting<Request>];
        const mayShare = lead === undefined || tenant === lead || !(isAlone || this.shares.isSuspect(tenant));
        if (mayShare && tenant.turns < turns && this.hasLane(tenant) && this.mayBegin(tenant))
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
