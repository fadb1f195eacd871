import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Settings } from '../config/env.js';
import { BodyMemory, SMALL_BODY_BYTES } from './body-memory.js';
import { onClose } from './on-close.js';
import { isTooSlow, PaceClock } from './pace.js';
import { ReadMemory } from './read-memory.js';
import { type Account, Share } from './share.js';

const SWEEP_MS = 500;
/** What is read from the database is there as bytes off the socket, as rows and as an answer. */
const COPIES = 3;
/** A single answer counts as so much of `INFLIGHT_BYTES` at most, however large it is: alone it holds up nobody. */
const ANSWER_SHARE = 1 / 4;
/** Smaller answers are not counted: as many are with Node and the kernel. */
const COUNTED_ANSWER_BYTES = 16 * 1024;
/** While others wait for memory, an answer has to be taken so many times faster: as the longest body has to come in `BODY_TIMEOUT_MS`. */
const PRESSED_RATE = 8;

/**
 * The bytes of the requests and answers in flight: bodies, see `BodyMemory`, and as many bytes of answers and of rows that
 * are to become some, see `ReadMemory`, over which no more are read from the database. Neither takes of the other.
 *
 * It also watches that bodies and answers get on, and cuts off the connections of those that do not: over each
 * `STALL_TIMEOUT_MS` one that holds much has to move at `MIN_BYTES_PER_SECOND`, any other at all.
 */
export class Inflight {
  private static readonly known = new WeakMap<Settings, Inflight>();

  /** Called when `holdsAnswers` may no longer hold: an answer has left, or it is a while ago that one was large. */
  onRoom: () => void = () => undefined;
  readonly reads: ReadMemory;
  private readonly bodies: BodyMemory;
  /** Those whose answer is there. */
  private readonly answering = new Set<Share>();
  /** By tenant, those with a request in flight. */
  private readonly accounts = new Map<string, Account>();
  private arrivals = 0;
  private readonly tenantBytes: number;
  /** A body that brings less between two sweeps is granted no more than what has come. */
  private readonly grantBytes: number;
  private answerBytes = 0;
  /** Of each tenant's answers what its share allows, so that none takes the others' by what is beyond. */
  private sharedBytes = 0;
  /** The largest answer of late. */
  private expectedBytes = 0;
  private sweeper: NodeJS.Timeout | undefined;
  private readonly clock = new PaceClock(SWEEP_MS);

  private constructor(private readonly settings: Settings) {
    const { tenantInflightBytes, authModes, inflightBytes } = settings;
    this.tenantBytes = tenantInflightBytes ?? (authModes.length > 0 ? inflightBytes / 2 : Infinity);
    this.grantBytes = (settings.minBytesPerSecond * PRESSED_RATE * SWEEP_MS) / 1000;
    this.bodies = new BodyMemory(settings, this.accounts, this.tenantBytes);
    this.reads = new ReadMemory(inflightBytes, {
      roomBytes: () => inflightBytes - this.answerBytes,
      areAnswersHeld: (tenant) => this.areAnswersHeld(tenant),
      onRefused: (bytes) => {
        this.expectedBytes = Math.max(this.expectedBytes, bytes);
      },
    });
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
    const expected = Math.max(statements * COPIES * this.expectedBytes, this.reads.totalBytes);
    return this.sharedBytes + expected >= this.settings.inflightBytes;
  }

  /** The same of one tenant and its share. */
  holdsAnswersOf(tenant: string, statements: number): boolean {
    const expected = statements * COPIES * this.expectedBytes;
    return (this.accounts.get(tenant)?.answerBytes ?? 0) + expected >= this.tenantBytes;
  }

  /** Of bodies, rows and answers together. */
  get totalBytes(): number {
    return this.bodies.totalBytes + this.reads.totalBytes + this.answerBytes;
  }

  open(request: IncomingMessage, response: ServerResponse): Share {
    const account = this.accountOf(request.principal?.tenant ?? '');
    account.requests += 1;
    const share = new Share(this.arrivals++, account, { request, response });
    this.bodies.add(share);
    (response as Counted)[COUNT] = (bytes) => {
      this.answers(share, bytes);
    };
    this.sweeper ??= setInterval(() => {
      this.sweep();
    }, SWEEP_MS).unref();
    onClose(response, () => {
      this.close(share);
    });
    return share;
  }

  /** See `BodyMemory.need`. */
  need(share: Share, bytes: number, go: (error?: Error) => void): boolean {
    return this.bodies.need(share, bytes, go);
  }

  /** The body has been read, and takes so many bytes; or it has been given up. */
  read(share: Share, bytes: number): void {
    share.isReading = false;
    if (bytes !== share.bodyBytes) this.bodies.take(share, bytes);
  }

  /** The answer is there, and is about to be written; the body is needed no more. */
  private answers(share: Share, bytes: number): void {
    if (share.exchange === null) return;
    share.isReading = false;
    this.bodies.release(share);
    this.answering.add(share);
    if (bytes < COUNTED_ANSWER_BYTES) return;
    this.expectedBytes = Math.max(this.expectedBytes, bytes);
    share.answerBytes = bytes;
    this.answerBytes += bytes;
    this.countAnswer(share, 1);
  }

  private countAnswer({ account, answerBytes }: Share, sign: 1 | -1): void {
    const before = Math.min(account.answerBytes, this.tenantBytes);
    account.answerBytes += sign * Math.min(answerBytes, this.settings.inflightBytes * ANSWER_SHARE);
    this.sharedBytes += Math.min(account.answerBytes, this.tenantBytes) - before;
  }

  private close(share: Share): void {
    if (share.exchange === null) return;
    if (!share.exchange.response.writableFinished) share.caller.leave();
    share.exchange = null;
    this.bodies.release(share);
    this.answering.delete(share);
    const { account, answerBytes } = share;
    this.answerBytes -= answerBytes;
    this.countAnswer(share, -1);
    account.requests -= 1;
    if (account.requests === 0 && account.tenant !== '') this.accounts.delete(account.tenant);
    if (answerBytes > 0) this.onRoom();
  }

  private accountOf(tenant: string): Account {
    let account = this.accounts.get(tenant);
    if (account === undefined) {
      account = { tenant, requests: 0, bodyBytes: 0, smallBytes: 0, answerBytes: 0, waiting: [] };
      this.accounts.set(tenant, account);
    }
    return account;
  }

  private sweep(): void {
    const now = this.clock.at(performance.now());
    this.expectedBytes /= 2;
    this.onRoom();
    for (const share of this.bodies) {
      const { arrivedBytes } = share;
      if (!share.isReading || share.waiting !== null) share.paceAt = 0;
      else {
        this.pace(share, arrivedBytes, share.bodyBytes, this.bodies.isWaitedFor(share), 1, now);
        const isFast = arrivedBytes - share.sweptBytes >= this.grantBytes;
        if (!isFast || arrivedBytes === share.sweptBytes) this.bodies.takeBack(share);
      }
      share.sweptBytes = arrivedBytes;
    }
    for (const share of this.answering) {
      const { socket } = share.exchange?.request ?? {};
      // Otherwise it is the service that takes its time.
      if (socket === undefined || socket.writableLength === 0) share.paceAt = 0;
      else {
        const written = socket.bytesWritten - socket.writableLength;
        const isHeld = this.areAnswersHeld(share.account.tenant);
        this.pace(share, written, share.answerBytes, isHeld, isHeld ? PRESSED_RATE : 1, now);
      }
    }
    if (!this.bodies.isEmpty || this.answering.size > 0) return;
    this.expectedBytes = 0;
    clearInterval(this.sweeper);
    this.sweeper = undefined;
  }

  /** Cuts off a connection that has moved too little for too long. */
  private pace(
    share: Share,
    moved: number,
    held: number,
    isPressed: boolean,
    factor: number,
    now: number,
  ): void {
    const rate = held > SMALL_BODY_BYTES ? this.settings.minBytesPerSecond * factor : null;
    if (!isTooSlow(share, moved, this.settings, { rate, isPressed, now }) || share.exchange === null) return;
    const { request, response } = share.exchange;
    if (!response.headersSent) response.statusCode = 408; // for the log
    request.socket.destroy();
  }

  private areAnswersHeld(tenant: string): boolean {
    const ownBytes = this.accounts.get(tenant)?.answerBytes ?? 0;
    return this.sharedBytes >= this.settings.inflightBytes || ownBytes >= this.tenantBytes;
  }
}

/** On the response itself: a WeakMap of all of them costs each collection of garbage a way through it. */
const COUNT = Symbol('count');
type Counted = ServerResponse & { [COUNT]?: (bytes: number) => void };

/** Counts an answer of so many bytes until it is written. */
export function countAnswer(response: ServerResponse, bytes: number): void {
  (response as Counted)[COUNT]?.(bytes);
}
