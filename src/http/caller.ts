import { AsyncLocalStorage } from 'node:async_hooks';

/** The client went away before its request was begun. */
export class CallerGoneError extends Error {
  constructor() {
    super('The client went away');
  }
}

/** Who waits for the answer to a request. It holds nothing of the request, so that nothing is kept alive by it. */
export class Caller {
  isGone = false;
  /** What to do when it goes while the request waits. */
  onGone: (() => void) | null = null;

  /** Tenants take turns in the queue. */
  constructor(readonly tenant = '') {}

  leave(): void {
    this.isGone = true;
    this.onGone?.();
    this.onGone = null;
  }
}

const callers = new AsyncLocalStorage<Caller>();

/** Runs what answers the caller's request. */
export function answering(caller: Caller, work: () => void): void {
  callers.run(caller, work);
}

/** Whose request is being answered; undefined for work of the service's own. */
export function currentCaller(): Caller | undefined {
  return callers.getStore();
}
