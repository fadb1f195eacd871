import { QueueFullError, QueueTimeoutError } from '../errors/errors.js';
import type { Settings } from '../config/env.js';
import { CallerGoneError } from './caller.js';
import type { Account, Share, Waiting } from './share.js';

/** Up to so many bytes a body is small. */
export const SMALL_BODY_BYTES = 64 * 1024;
/** Small bodies have so much of `INFLIGHT_BYTES` beside it, so that they never wait for large ones. */
const SMALL_SHARE = 1 / 8;

/**
 * The memory of the bodies in flight, of which each takes what has arrived of it, and a grant for what comes next. Over
 * `INFLIGHT_BYTES`, or over its tenant's share, a body waits, unread and with what it has: in the order of arrival, but the
 * tenant that takes the least comes first. The oldest body in flight never waits, nor does the oldest of a tenant for the
 * tenant's share: so there is always one that goes on, and one that is larger than all of the memory gets through.
 */
export class BodyMemory {
  /** The oldest first. */
  private readonly shares = new Set<Share>();
  private readonly smallLimit: number;
  private bytes = 0;
  private smallBytes = 0;
  private waiting = 0;

  constructor(
    private readonly settings: Settings,
    private readonly accounts: ReadonlyMap<string, Account>,
    /** Of a tenant. */
    private readonly tenantBytes: number,
  ) {
    this.smallLimit = settings.inflightBytes * SMALL_SHARE;
  }

  get totalBytes(): number {
    return this.bytes;
  }

  get isEmpty(): boolean {
    return this.shares.size === 0;
  }

  add(share: Share): void {
    this.shares.add(share);
  }

  /**
   * Makes room for so many bytes of a body. False when it has to wait: `go` is then called once there is room, or with
   * the reason why it is refused.
   */
  need(share: Share, bytes: number, go: (error?: Error) => void): boolean {
    if ((this.waiting === 0 || bytes <= SMALL_BODY_BYTES) && this.fits(share, bytes)) {
      this.take(share, bytes);
      return true;
    }
    const refusal = this.refusalOf(share);
    if (refusal !== null) {
      queueMicrotask(() => {
        go(refusal);
      });
      return false;
    }
    const { queueWaitMs } = this.settings;
    const timer = setTimeout(() => {
      this.giveUp(
        waiting,
        new QueueTimeoutError(`No memory became free within QUEUE_WAIT_MS = ${queueWaitMs}`),
      );
    }, queueWaitMs).unref();
    const waiting = { share, bytes, go, timer };
    share.waiting = waiting;
    share.caller.onGone = () => {
      this.giveUp(waiting, new CallerGoneError());
    };
    const { waiting: others } = share.account;
    const at = others.findIndex((other) => other.share.arrival > share.arrival);
    others.splice(at === -1 ? others.length : at, 0, waiting);
    this.waiting += 1;
    this.admit();
    return false;
  }

  /** It takes so many bytes from now on, which are there already. */
  take(share: Share, bytes: number): void {
    if (!this.shares.has(share)) return;
    const { account, bodyBytes } = share;
    const before = bodyBytes <= SMALL_BODY_BYTES ? bodyBytes : 0;
    const small = (bytes <= SMALL_BODY_BYTES ? bytes : 0) - before;
    this.bytes += bytes - bodyBytes;
    this.smallBytes += small;
    account.bodyBytes += bytes - bodyBytes;
    account.smallBytes += small;
    share.bodyBytes = bytes;
  }

  /** Takes back what a body was granted and does not use. */
  takeBack(share: Share): void {
    if (share.waiting !== null || share.arrivedBytes >= share.bodyBytes) return;
    this.take(share, share.arrivedBytes);
    if (this.waiting > 0) this.admit();
  }

  /** Its bytes are needed no more, and it waits no more. */
  release(share: Share): void {
    if (!this.shares.has(share)) return;
    if (share.waiting !== null) this.leave(share.waiting);
    this.take(share, 0);
    this.shares.delete(share);
    if (this.waiting > 0) this.admit();
  }

  /** Whether others wait for what the share takes. */
  isWaitedFor({ account }: Share): boolean {
    if (this.waiting === 0) return false;
    if (account.waiting.length > 0) return true;
    for (const { waiting } of this.accounts.values()) {
      const [first] = waiting;
      if (first !== undefined && this.fitsTenant(first.share, first.bytes)) return true;
    }
    return false;
  }

  *[Symbol.iterator](): Generator<Share> {
    yield* this.shares;
  }

  private refusalOf({ account }: Share): QueueFullError | null {
    const { queueMax, authModes } = this.settings;
    const room = queueMax - this.waiting;
    if (room <= 0) {
      return new QueueFullError(`${queueMax} requests wait for memory already, as many as QUEUE_MAX allows`);
    }
    if (authModes.length === 0 || account.waiting.length < room) return null;
    return new QueueFullError(
      `${account.waiting.length} requests of this tenant wait for memory already, and others need the room that is left`,
    );
  }

  private fits(share: Share, bytes: number): boolean {
    if (this.fitsSmall(share, bytes)) return true;
    const isRoom = this.bytes + bytes - share.bodyBytes <= this.settings.inflightBytes;
    return this.fitsTenant(share, bytes) && (isRoom || share === this.oldest());
  }

  private fitsSmall({ account, bodyBytes }: Share, bytes: number): boolean {
    const more = bytes - bodyBytes;
    return (
      bytes <= SMALL_BODY_BYTES &&
      this.smallBytes + more <= this.smallLimit &&
      account.smallBytes + more <= this.tenantBytes * SMALL_SHARE
    );
  }

  private fitsTenant(share: Share, bytes: number): boolean {
    const { account, bodyBytes } = share;
    return account.bodyBytes + bytes - bodyBytes <= this.tenantBytes || share === this.oldest(account);
  }

  private oldest(account?: Account): Share | undefined {
    for (const share of this.shares) if (account === undefined || share.account === account) return share;
    return undefined;
  }

  /** A small one that fits, else the oldest in flight, else the first of the tenant that takes the least. */
  private next(): Waiting | undefined {
    let next: Waiting | undefined;
    const oldest = this.oldest();
    for (const { waiting } of this.accounts.values()) {
      const small = waiting.find(({ share, bytes }) => this.fitsSmall(share, bytes));
      if (small !== undefined) return small;
    }
    for (const { waiting } of this.accounts.values()) {
      const [first] = waiting;
      if (first === undefined || !this.fitsTenant(first.share, first.bytes)) continue;
      if (first.share === oldest) return first;
      if (next === undefined || first.share.account.bodyBytes < next.share.account.bodyBytes) next = first;
    }
    return next;
  }

  private admit(): void {
    for (;;) {
      const first = this.next();
      if (first === undefined || !this.fits(first.share, first.bytes)) return;
      this.leave(first);
      this.take(first.share, first.bytes);
      // Not here and now: it may take room, or give it, in turn.
      setImmediate(first.go);
    }
  }

  private giveUp(waiting: Waiting, reason: Error): void {
    this.leave(waiting);
    waiting.go(reason);
    if (this.waiting > 0) this.admit();
  }

  private leave(waiting: Waiting): void {
    clearTimeout(waiting.timer);
    const { share } = waiting;
    const { waiting: others } = share.account;
    others.splice(others.indexOf(waiting), 1);
    this.waiting -= 1;
    share.waiting = null;
    share.caller.onGone = null;
  }
}
