import type { IncomingMessage, ServerResponse } from 'node:http';
import { QueueFullError, QueueTimeoutError } from '../checkpoints/checkpoint.errors.js';
import type { Settings } from '../config/env.js';
import { Caller, CallerGoneError, Tenancy } from './caller.js';
import { onClose } from './on-close.js';

const SWEEP_MS = 1000;
/** What is read from the database is there as bytes off the socket, as rows and as an answer. */
const COPIES = 3;

/** What one request takes of the memory, from its arrival until its answer is written or its connection is gone. */
export class Share {
  readonly caller: Caller;
  bodyBytes = 0;
  answerBytes = 0;
  /** Whether its body is being read. */
  isReading = true;
  isWaiting = false;
  /** How far its connection had come at the last sweep, and when that last changed. */
  progress = -1;
  progressAt = 0;

  constructor(
    readonly arrival: number,
    readonly account: Account,
    /**
     * Null once it is closed. The set of shares makes itself anew every few requests, and its former selves keep what they
     * held for as long as V8 leaves them in its old space: whole requests, at 30 µs of a put-writes.
     */
    public exchange: { request: IncomingMessage; response: ServerResponse } | null,
  ) {
    this.caller = new Caller(account.tenant);
  }
}

/** What the requests of one tenant take together. */
interface Account {
  tenant: string;
  requests: number;
  bytes: number;
  answerBytes: number;
  /** In the order of their arrival. */
  waiting: Waiting[];
}

interface Waiting {
  share: Share;
  bytes: number;
  go: (error?: Error) => void;
  timer: NodeJS.Timeout;
}

/**
 * The bytes of the requests and answers in flight. Over `INFLIGHT_BYTES` a body waits before it is read, in the order of
 * arrival, but the tenant that takes the least comes first; so does one of a tenant that takes its share. The oldest request
 * in flight never waits, nor does the oldest of a tenant for its share, so that one which is larger than all of it gets
 * through, and those that wait in the middle of a body of unknown length cannot wait for each other.
 *
 * It also watches that bodies and answers get on, and cuts off the connections of those that do not.
 */
export class Inflight {
  private static readonly known = new WeakMap<Settings, Inflight>();

  /** Called when an answer has left, and `holdsAnswers` may no longer hold. */
  onRoom: () => void = () => undefined;
  /** The oldest first. */
  private readonly shares = new Set<Share>();
  /** By tenant, those with a request in flight. */
  private readonly accounts = new Map<string, Account>();
  private waiting = 0;
  private arrivals = 0;
  private readonly tenancy = new Tenancy();
  private tenantBytes: number;
  private bytes = 0;
  private answerBytes = 0;
  /** The largest answer of late. */
  private expectedBytes = 0;
  private sweeper: NodeJS.Timeout | undefined;

  private constructor(private readonly settings: Settings) {
    this.tenantBytes = settings.tenantInflightBytes ?? Infinity;
  }

  /** The one of the service with these settings. */
  static of(settings: Settings): Inflight {
    let inflight = Inflight.known.get(settings);
    if (inflight === undefined) {
      inflight = new Inflight(settings);
      Inflight.known.set(settings, inflight);
    }
    return inflight;
  }

  /**
   * Whether so much is to be written that no further answers should be read from the database, beside those of so many
   * statements; these are taken to be as large as the largest of late.
   */
  holdsAnswers(statements: number): boolean {
    return this.answerBytes + statements * COPIES * this.expectedBytes >= this.settings.inflightBytes;
  }

  /** The same of one tenant and its share. */
  holdsAnswersOf(tenant: string, statements: number): boolean {
    const expected = statements * COPIES * this.expectedBytes;
    if (this.answerBytes + expected < this.tenantBytes) return false;
    return (this.accounts.get(tenant)?.answerBytes ?? 0) + expected >= this.tenantBytes;
  }

  /** Of bodies and answers together. */
  get totalBytes(): number {
    return this.bytes;
  }

  open(request: IncomingMessage, response: ServerResponse): Share {
    const account = this.accountOf(request.principal?.tenant ?? '');
    account.requests += 1;
    const share = new Share(this.arrivals++, account, { request, response });
    this.shares.add(share);
    (response as Counted)[COUNT] = (bytes) => {
      this.answers(share, bytes);
    };
    onClose(response, () => {
      this.close(share);
    });
    this.sweeper ??= setInterval(() => {
      this.sweep();
    }, SWEEP_MS).unref();
    return share;
  }

  /**
   * Makes room for a body of so many bytes. False when it has to wait: `go` is then called once there is room, or with
   * the reason why it is refused.
   */
  need(share: Share, bytes: number, go: (error?: Error) => void): boolean {
    if (this.waiting === 0 && this.fits(share, bytes)) {
      this.take(share, bytes);
      return true;
    }
    const { queueMax, queueWaitMs } = this.settings;
    const { waiting: others } = share.account;
    const room = queueMax - this.waiting;
    if (room <= 0 || (this.tenancy.isShared && others.length >= room)) {
      const why =
        room <= 0
          ? `${queueMax} requests wait for memory already, as many as QUEUE_MAX allows`
          : `${others.length} requests of this tenant wait for memory already, and others need the room that is left`;
      queueMicrotask(() => {
        go(new QueueFullError(why));
      });
      return false;
    }
    const timer = setTimeout(() => {
      this.giveUp(
        waiting,
        new QueueTimeoutError(`No memory became free within QUEUE_WAIT_MS = ${queueWaitMs}`),
      );
    }, queueWaitMs).unref();
    const waiting = { share, bytes, go, timer };
    share.isWaiting = true;
    share.caller.onGone = () => {
      this.giveUp(waiting, new CallerGoneError());
    };
    const at = others.findIndex((other) => other.share.arrival > share.arrival);
    others.splice(at === -1 ? others.length : at, 0, waiting);
    this.waiting += 1;
    this.admit();
    return false;
  }

  /** The body has been read, and takes so many bytes. */
  read(share: Share, bytes: number): void {
    share.isReading = false;
    if (bytes !== share.bodyBytes) this.take(share, bytes);
  }

  /** Counts an answer, which is there already. */
  answers(share: Share, bytes: number): void {
    if (share.exchange === null) return;
    this.expectedBytes = Math.max(this.expectedBytes, bytes);
    const { account } = share;
    share.answerBytes += bytes;
    account.answerBytes += bytes;
    account.bytes += bytes;
    this.answerBytes += bytes;
    this.bytes += bytes;
  }

  private close(share: Share): void {
    if (share.exchange === null) return;
    if (!share.exchange.response.writableFinished) share.caller.leave();
    share.exchange = null;
    this.shares.delete(share);
    const { account, bodyBytes, answerBytes } = share;
    this.bytes -= bodyBytes + answerBytes;
    account.bytes -= bodyBytes + answerBytes;
    this.answerBytes -= answerBytes;
    account.answerBytes -= answerBytes;
    account.requests -= 1;
    if (account.requests === 0 && account.tenant !== '') this.accounts.delete(account.tenant);
    if (this.waiting > 0) this.admit();
    if (answerBytes > 0) this.onRoom();
  }

  private accountOf(tenant: string): Account {
    let account = this.accounts.get(tenant);
    if (account === undefined) {
      account = { tenant, requests: 0, bytes: 0, answerBytes: 0, waiting: [] };
      this.accounts.set(tenant, account);
      if (this.tenancy.becomesShared(tenant)) {
        this.tenantBytes = this.settings.tenantInflightBytes ?? this.settings.inflightBytes / 2;
      }
    }
    return account;
  }

  private fits(share: Share, bytes: number): boolean {
    const more = bytes - share.bodyBytes;
    return (
      (this.bytes + more <= this.settings.inflightBytes || share === this.oldest()) &&
      this.fitsShare(share, more)
    );
  }

  private fitsShare(share: Share, more: number): boolean {
    return share.account.bytes + more <= this.tenantBytes || share === this.oldest(share.account);
  }

  private oldest(account?: Account): Share | undefined {
    for (const share of this.shares) if (account === undefined || share.account === account) return share;
    return undefined;
  }

  private take(share: Share, bytes: number): void {
    if (share.exchange === null) return;
    this.bytes += bytes - share.bodyBytes;
    share.account.bytes += bytes - share.bodyBytes;
    share.bodyBytes = bytes;
  }

  /** The oldest in flight, else the first of the tenant that takes the least, of those that may take more. */
  private next(): Waiting | undefined {
    let next: Waiting | undefined;
    const oldest = this.oldest();
    for (const { waiting } of this.accounts.values()) {
      const [first] = waiting;
      if (first === undefined || !this.fitsShare(first.share, first.bytes - first.share.bodyBytes)) continue;
      if (first.share === oldest) return first;
      if (next === undefined || first.share.account.bytes < next.share.account.bytes) next = first;
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
    this.admit();
  }

  private leave(waiting: Waiting): void {
    clearTimeout(waiting.timer);
    const { waiting: others } = waiting.share.account;
    others.splice(others.indexOf(waiting), 1);
    this.waiting -= 1;
    waiting.share.isWaiting = false;
    waiting.share.caller.onGone = null;
  }

  private sweep(): void {
    const now = performance.now();
    this.expectedBytes /= 2;
    for (const share of this.shares) {
      const { exchange } = share;
      // Of the requests that follow each other on a connection, the later ones do not hear that it is gone.
      if (exchange === null || exchange.request.socket.destroyed) {
        this.close(share);
        continue;
      }
      const { request, response } = exchange;
      const progress = progressOf(share, request, response);
      if (progress === null || progress !== share.progress) {
        share.progress = progress ?? -1;
        share.progressAt = now;
      } else if (now - share.progressAt >= this.settings.stallTimeoutMs) {
        if (!response.headersSent) response.statusCode = 408; // for the log
        request.socket.destroy();
      }
    }
    if (this.shares.size > 0) return;
    this.expectedBytes = 0;
    clearInterval(this.sweeper);
    this.sweeper = undefined;
  }
}

/** How much of a body has come or of an answer has gone; null while it is the service that takes its time. */
function progressOf(
  { isReading, isWaiting }: Share,
  { socket }: IncomingMessage,
  response: ServerResponse,
): number | null {
  if (response.headersSent) return socket.bytesWritten - socket.writableLength;
  return isReading && !isWaiting ? socket.bytesRead : null;
}

/** On the response itself: a WeakMap of all of them costs each collection of garbage a way through it. */
const COUNT = Symbol('count');
type Counted = ServerResponse & { [COUNT]?: (bytes: number) => void };

/** Counts an answer of so many bytes until it is written. */
export function countAnswer(response: ServerResponse, bytes: number): void {
  (response as Counted)[COUNT]?.(bytes);
}
