/** The client went away before its request was begun. */
export class CallerGoneError extends Error {
  constructor() {
    super('The client went away');
  }
}

/** What a caller does that is written to the audit log. */
export interface Deed {
  /** Writes that it is done, in the transaction that does this part of it. A repeat of the part is written once. */
  record: (
    query: (sql: string, parameters: unknown[]) => Promise<unknown[]>,
    part: number,
    detail?: object,
  ) => Promise<void>;
}

/** Who waits for the answer to a request. It holds nothing of the request, so that nothing is kept alive by it. */
export class Caller {
  isGone = false;
  /** What to do when it goes while the request waits. */
  onGone: (() => void) | null = null;
  /** Null: what it does is not audited. */
  deed: Deed | null = null;
  private parts: Caller[] | null = null;

  /** Its threads are a world of their own, and take turns with those of other tenants in the queue. */
  constructor(readonly tenant = '') {}

  /** One that waits for a part of the answer, beside others; it goes when this one does. */
  part(): Caller {
    const part = new Caller(this.tenant);
    part.isGone = this.isGone;
    (this.parts ??= []).push(part);
    return part;
  }

  leave(): void {
    this.isGone = true;
    this.onGone?.();
    this.onGone = null;
    for (const part of this.parts ?? []) part.leave();
  }
}

/** Notices that there are several tenants: from then on each has its share. */
export class Tenancy {
  isShared = false;
  private first: string | undefined;

  /** Whether this tenant is the second one. */
  becomesShared(tenant: string): boolean {
    this.first ??= tenant;
    if (this.isShared || tenant === this.first) return false;
    this.isShared = true;
    return true;
  }
}

const CALLER = Symbol('caller');

interface OfCaller {
  [CALLER]?: Caller;
}

let current: Caller | undefined;

/** Says whose request this is the body of. */
export function setCaller(body: object, caller: Caller): void {
  (body as OfCaller)[CALLER] = caller;
}

/** Who sent the body; undefined for one that nobody sent. */
export function callerOf(body: unknown): Caller | undefined {
  return (body as OfCaller | null)?.[CALLER];
}

/** Whose threads the body is about. Nobody's is nobody's: what nobody sent is not taken for the default tenant's. */
export function tenantOf(body: object): string {
  const caller = (body as OfCaller)[CALLER];
  if (caller === undefined) throw new Error('A request without a caller');
  return caller.tenant;
}

/** What was made of a body is the same caller's. */
export function passCaller(body: unknown, made: unknown): void {
  const caller = (body as OfCaller | null)?.[CALLER];
  if (caller !== undefined) (made as OfCaller)[CALLER] = caller;
}

/**
 * Runs what answers the request that this was made of; `currentCaller` is its caller until the work first waits. An
 * AsyncLocalStorage would reach further, but on Node 20 costs each promise of the process so much that a put-writes took
 * 150 µs of CPU instead of 80.
 */
export function answering<T>(made: unknown, work: () => T): T {
  return asCaller(callerOf(made), work);
}

/** As `answering`, for that caller. */
export function asCaller<T>(caller: Caller | undefined, work: () => T): T {
  const outer = current;
  current = caller;
  try {
    return work();
  } finally {
    current = outer;
  }
}

/** Whose request is being answered; undefined for work of the service's own. */
export function currentCaller(): Caller | undefined {
  return current;
}
