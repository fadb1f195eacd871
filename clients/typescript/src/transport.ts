import { Ending, endingAfter } from './ending.js';
import { CheckpointHttpError, type CheckpointHttpErrorInfo, type RequestFault, seconds } from './error.js';
import { gzipped } from './gzip.js';
import { networkFault } from './network-fault.js';
import { byFetch } from './sending/by-fetch.js';
import { chosenSend } from './sending/choose.js';
import { AnswerTooLargeError, type Incoming, type Outgoing, type Send } from './sending/send.js';

/** How the service is reached. Times are in milliseconds. */
export interface TransportOptions {
  /** Where the service is, such as `http://checkpoints:5003`; a path is kept as a prefix. */
  baseUrl: string | URL;
  /**
   * Sent as `x-agent-api-key`. A function is asked before each call, for keys that change, such as a token in a file, and once more
   * when the service refuses the key by a 401: a call goes on with another key.
   */
  apiKey?: string | (() => string | undefined | Promise<string | undefined>) | undefined;
  /** Sent with every request; they win over the client's own. */
  headers?: Record<string, string> | undefined;
  /**
   * How long one attempt may take, its answer included. It should exceed the time that the service itself waits for its
   * database (`QUEUE_WAIT_MS` and `OUTAGE_WAIT_MS`, 40 s together). Default 60,000.
   */
  timeoutMs?: number | undefined;
  /** How long one call may take with all its attempts and the pauses between them. Default 120,000. */
  deadlineMs?: number | undefined;
  /**
   * How long one call may take while the address refuses connections, is unknown or speaks no HTTP or TLS, and no saver of this
   * process has ever had an answer from it: it is probably wrong. Default 15,000.
   */
  firstAnswerMs?: number | undefined;
  /** The pause before the second attempt is random, up to this; it doubles with every further one. Default 100. */
  backoffMs?: number | undefined;
  /** Longest pause that the client chooses by itself; a `Retry-After` may be longer. Default 5,000. */
  maxBackoffMs?: number | undefined;
  /** Bodies of this many bytes and more are sent gzipped, when that makes them smaller. `Infinity`: never. Default 65,536. */
  gzipFromBytes?: number | undefined;
  /** How many requests may be under way at once; further ones wait their turn. Default 64. */
  maxConcurrency?: number | undefined;
  /**
   * How long a store that is under way (`put`, `putWrites`) may go on after its signal was aborted, so that a run that is
   * stopped keeps what its nodes have done. 0: not at all. Default 5,000.
   */
  abortGraceMs?: number | undefined;
  /**
   * Whether answers with another `x-request-id` than was sent are refused. Turn it off behind a proxy that replaces this header;
   * answers that name another thread are refused all the same. Default true.
   */
  checkRequestId?: boolean | undefined;
  /**
   * Called before each pause, with what the call would fail with now and how many milliseconds it may go on. Default: a line of
   * `console.warn` for the first, and then for one a minute at most.
   */
  onRetry?: ((error: CheckpointHttpError, leftMs: number) => void) | undefined;
  /**
   * Used in place of the package's own HTTP and of the global `fetch`, for a proxy, an own connection pool or mutual TLS. Default: own
   * HTTP in Node, and the global `fetch` elsewhere, within Next.js, and where undici's global dispatcher was set.
   */
  fetch?: typeof fetch | undefined;
}

type KeyFunction = Extract<TransportOptions['apiKey'], (...some: never) => unknown>;

interface Call {
  /** For errors. */
  threadId?: string | undefined;
  /** Ends the call, also while it waits to try again. */
  signal?: AbortSignal | undefined;
  /** The call stores something: it goes on for `abortGraceMs` after the signal was aborted. */
  isStore?: boolean;
  /** What of the parsed answer was not asked for, such as another thread's id; undefined when all of it was. */
  stranger?: ((json: unknown) => string | undefined) | undefined;
}

export interface Answer {
  /** The parsed body; undefined when there was none. */
  json: unknown;
  /** Characters of the body. */
  length: number;
  headers: Incoming['headers'];
}

const RETRYABLE = new Set([408, 425, 429, 502, 503, 504]);
/** A timer that should wait longer fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** No answer comes so soon. Without it a call whose turn comes at its deadline would send a request in vain. */
const TOO_SHORT_MS = 5;
/** So many answers of others in a row are no accident. */
const MAX_MISMATCHES = 5;
/** What the service gives back unchanged. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;
/** How often a saver says at most that it tries again. */
const WARNING_INTERVAL_MS = 60_000;
/** How much of an answer that is no problem document an error has. */
const EXCERPT_LENGTH = 200;
/** What may help, by status. */
const ADVICE: Record<number, string | undefined> = {
  401: 'Check apiKey: it is missing, wrong, expired or revoked',
  404: 'Check baseUrl: the path before /checkpoints is kept',
};
/** The addresses that have answered this process. */
const answered = new Set<string>();

/**
 * After a mismatch: the connection that is used next may be the same one, or mixed up as well, so it is closed behind its answer.
 * Browsers keep this header to themselves.
 */
const ON_ITS_LAST_CONNECTION: Record<string, string> =
  typeof process === 'undefined' || !('versions' in process) ? {} : { connection: 'close' };

const OWN_HEADERS = {
  accept: 'application/json, application/problem+json',
  'content-type': 'application/json',
};

/** What HTTP allows (RFC 9110), the values in Latin 1. Checked by `Headers` it would load Node's whole fetch. */
const HEADER_NAME = /^[\w!#$%&'*+.^`|~-]+$/;
const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;

/** Sends the operations of a checkpoint-backend, again and again until one attempt succeeds or the deadline has passed. */
export class Transport {
  private readonly base: string;
  private readonly apiKey: TransportOptions['apiKey'];
  private readonly keyHeader: Record<string, string>;
  private readonly headers: Record<string, string>;
  private readonly timeoutMs: number;
  private readonly deadlineMs: number;
  private readonly firstAnswerMs: number;
  private readonly onRetry: NonNullable<TransportOptions['onRetry']>;
  private readonly backoffMs: number;
  private readonly maxBackoffMs: number;
  private readonly gzipFromBytes: number;
  private readonly abortGraceMs: number;
  private readonly checkRequestId: boolean;
  private readonly send: Send;
  private free: number;
  private readonly queue = new Set<() => void>();

  /** @throws TypeError when an option makes no sense */
  constructor(options: TransportOptions) {
    const url = parsed(options.baseUrl);
    if (!/^https?:$/.test(url.protocol)) throw new TypeError('baseUrl must start with http: or https:');
    if (url.username !== '' || url.password !== '') {
      throw new TypeError('baseUrl must not hold a user or password; use apiKey or headers');
    }
    if (url.search !== '' || url.hash !== '')
      throw new TypeError('baseUrl must not hold a query or fragment');
    this.base = `${url.href.replace(/\/+$/, '')}/checkpoints/`;
    this.apiKey = options.apiKey;
    this.keyHeader = typeof this.apiKey === 'string' ? checked(keyHeader(this.apiKey)) : {};
    this.headers = checked(lowerCased(options.headers ?? {}));
    if (!REQUEST_ID.test(this.headers['x-request-id'] ?? 'none')) {
      throw new TypeError(
        'The header "x-request-id" must be 1 to 128 printable ASCII characters without spaces',
      );
    }
    this.timeoutMs = positive('timeoutMs', options.timeoutMs ?? 60_000);
    this.deadlineMs = positive('deadlineMs', options.deadlineMs ?? 120_000);
    this.firstAnswerMs = positive('firstAnswerMs', options.firstAnswerMs ?? 15_000);
    this.onRetry = options.onRetry ?? warnings();
    this.backoffMs = positive('backoffMs', options.backoffMs ?? 100);
    this.maxBackoffMs = positive('maxBackoffMs', options.maxBackoffMs ?? 5_000);
    this.gzipFromBytes = positive('gzipFromBytes', options.gzipFromBytes ?? 65_536);
    this.free = positive('maxConcurrency', options.maxConcurrency ?? 64);
    this.abortGraceMs = options.abortGraceMs ?? 5_000;
    this.checkRequestId = options.checkRequestId ?? true;
    this.send = options.fetch === undefined ? chosenSend(this.base) : byFetch(this.base, options.fetch);
  }

  /**
   * Posts the operation, with a body of JSON. Every operation may be repeated, so every failure that may pass is tried again: broken connections,
   * timeouts and 408, 425, 429, 502, 503 and 504.
   * @throws CheckpointHttpError when the service refuses, or has not answered when the deadline is reached
   * @throws the reason of the signal when it is aborted
   */
  async call(
    operation: string,
    body: string,
    { threadId, signal, isStore = false, stranger = () => undefined }: Call = {},
  ): Promise<Answer> {
    if (signal === undefined) return this.repeat(operation, body, threadId, new Ending(), stranger);
    const { ending, dispose } = endingAfter(signal, isStore ? this.abortGraceMs : 0);
    try {
      return await this.repeat(operation, body, threadId, ending, stranger);
    } finally {
      dispose();
    }
  }

  private async repeat(
    operation: string,
    body: string,
    threadId: string | undefined,
    ending: Ending,
    stranger: NonNullable<Call['stranger']>,
  ): Promise<Answer> {
    ending.throwIfOver();
    const began = Date.now();
    // No character is longer than three bytes, so most bodies need not be encoded to know that they are short.
    const isShort = body.length * 3 < this.gzipFromBytes;
    const payload: Payload = isShort ? { bytes: body, encoding: null } : await this.encode(body);
    const requestId = this.headers['x-request-id'] ?? newRequestId();
    const endsAt = began + this.deadlineMs;
    const key = typeof this.apiKey === 'function' ? new KeyOfCall(this.apiKey) : undefined;
    const readKey = async (known: KeyOfCall): Promise<boolean> => {
      const found = await before(endsAt, ending, known.read());
      if (found !== undefined) return found.value;
      const info = { operation, threadId, attempts: 0, elapsedMs: Date.now() - began, isRetryable: true };
      throw new CheckpointHttpError({ ...info, detail: 'apiKey gave no key', limit: 'deadlineMs' });
    };
    if (key !== undefined) await readKey(key);
    const expected = { requestId: this.checkRequestId ? requestId : undefined, stranger };
    let mismatches = 0;
    let last: Failed | undefined;
    for (let attempt = 1; ; attempt++) {
      const headers = {
        ...OWN_HEADERS,
        ...(payload.encoding === null ? {} : { 'content-encoding': payload.encoding }),
        'x-request-id': requestId,
        ...(key?.header ?? this.keyHeader),
        ...this.headers,
        ...(last?.failure.isMismatch === true ? ON_ITS_LAST_CONNECTION : {}),
      };
      // Without an answer of its own: other connections that are kept may be as dead, or as mixed up.
      const isFresh = last !== undefined && last.failure.status === undefined;
      const request = { operation, headers, body: payload.bytes, isFresh };
      const outcome: Answer | Failed = await this.turn(endsAt, ending, () =>
        this.attempt(request, endsAt - Date.now(), ending, expected),
      );
      if ('json' in outcome) return outcome;
      if (outcome.failure.status === 401 && key !== undefined && (await readKey(key))) continue;
      // What the deadline has cut short says less than what came before.
      if (last === undefined || !outcome.isCut) last = outcome;
      const { failure, retryAfterMs, cause } = last;
      if (failure.isMismatch === true) mismatches += 1;
      const elapsedMs = Date.now() - began;
      const attempts = outcome.isUnsent ? attempt - 1 : attempt;
      const info = { requestId, ...failure, operation, threadId, attempts, elapsedMs };
      if (!failure.isRetryable || mismatches >= MAX_MISMATCHES)
        throw new CheckpointHttpError(info, { cause });
      const pauseMs = retryAfterMs + this.jitter(attempt);
      const limit = this.limitOf(outcome);
      const leftMs = this[limit] - elapsedMs;
      if (pauseMs >= leftMs) throw new CheckpointHttpError({ ...info, limit }, { cause });
      this.onRetry(new CheckpointHttpError(info, { cause }), leftMs);
      await sleep(pauseMs, ending);
    }
  }

  /** The option that bounds a call which has just failed so. */
  private limitOf({ isUnreachable = false }: Failed): 'firstAnswerMs' | 'deadlineMs' {
    const isShort = isUnreachable && !answered.has(this.base) && this.firstAnswerMs < this.deadlineMs;
    return isShort ? 'firstAnswerMs' : 'deadlineMs';
  }

  /** Full jitter: anything from none to the exponential bound, so that clients which failed together do not return together. */
  private jitter(attempt: number): number {
    return Math.random() * Math.min(this.maxBackoffMs, this.backoffMs * 2 ** (attempt - 1));
  }

  /** Runs the attempt as soon as one of the places is free, and without one when the time is over. */
  private async turn<T>(endsAt: number, ending: Ending, attempt: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free -= 1;
    else if (!(await this.place(endsAt, ending))) return attempt();
    try {
      return await attempt();
    } finally {
      const [next] = this.queue;
      if (next === undefined) this.free += 1;
      else next();
    }
  }

  /** Waits in the queue until a place is handed over; false when the time is over. */
  private async place(endsAt: number, ending: Ending): Promise<boolean> {
    let enter: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      enter = () => {
        this.queue.delete(enter);
        resolve();
      };
      this.queue.add(enter);
    });
    try {
      return (await before(endsAt, ending, turn)) !== undefined;
    } finally {
      this.queue.delete(enter);
    }
  }

  private async attempt(
    request: Omit<Outgoing, 'ending'>,
    remainingMs: number,
    endingOfCall: Ending,
    expected: Expected,
  ): Promise<Answer | Failed> {
    const timeoutMs = Math.min(this.timeoutMs, remainingMs, MAX_TIMER_MS);
    const isCut = remainingMs < this.timeoutMs;
    if (timeoutMs <= TOO_SHORT_MS) {
      const detail = 'it waited for its turn behind others, see maxConcurrency';
      return { ...failed({ detail, isRetryable: true }), isCut: true, isUnsent: true };
    }
    const ending = new Ending();
    const forget = endingOfCall.onEnd(() => {
      ending.end(endingOfCall.reason);
    });
    const timer = setTimeout(() => {
      ending.end(new DOMException(`No answer within ${timeoutMs} ms`, 'TimeoutError'));
    }, timeoutMs);
    let answer: Incoming;
    try {
      answer = await new Promise((resolve, reject) => {
        // A `fetch` of the caller's may look at no signal.
        ending.onEnd(() => {
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason may be the caller's
          reject(ending.reason);
        });
        this.send({ ...request, ending }).then(resolve, reject);
      });
    } catch (error) {
      endingOfCall.throwIfOver();
      if (isOfFramework(error)) throw error;
      const cause: unknown = ending.isOver ? ending.reason : error;
      const { reason, advice, isHopeless, isUnreachable } = networkFault(cause);
      const isTooLarge = cause instanceof AnswerTooLargeError;
      const detail = isTooLarge ? reason : `no answer from ${new URL(this.base).origin}: ${reason}`;
      return {
        ...failed({ detail, advice, isTooLarge, isRetryable: !isHopeless && !isTooLarge }, cause),
        isCut: isCut && ending.isOver,
        isUnreachable,
      };
    } finally {
      clearTimeout(timer);
      forget();
    }
    answered.add(this.base);
    const foreign = foreignIdOf(answer, expected);
    // A proxy's own 502 has no data, and asks for another attempt anyway.
    if (foreign !== undefined && !RETRYABLE.has(answer.status)) {
      return mismatch(`${answer.status} with x-request-id ${JSON.stringify(foreign)}`);
    }
    const outcome = read(answer);
    const stranger = 'json' in outcome ? expected.stranger(outcome.json) : undefined;
    return stranger === undefined ? outcome : mismatch(stranger);
  }

  private async encode(json: string): Promise<Payload> {
    const bytes = new TextEncoder().encode(json);
    const zipped = bytes.length < this.gzipFromBytes ? undefined : await gzipped(bytes);
    return zipped !== undefined && zipped.length < bytes.length
      ? { bytes: zipped, encoding: 'gzip' }
      : { bytes, encoding: null };
  }
}

/** The key of one call, when a function gives it: as it was at the beginning, and after a refusal once more. */
class KeyOfCall {
  header: Record<string, string> = {};
  private readonly source: KeyFunction;
  private text: string | undefined;
  private readings = 0;

  constructor(source: KeyFunction) {
    this.source = source;
  }

  /** Reads it, twice at most. False when it is the same as before. */
  async read(): Promise<boolean> {
    if (this.readings === 2) return false;
    this.readings += 1;
    const before = this.text;
    this.text = await this.source();
    this.header = checked(keyHeader(this.text));
    return this.text !== before;
  }
}

interface Payload {
  bytes: string | Uint8Array<ArrayBuffer>;
  encoding: 'gzip' | null;
}

interface Failed {
  failure: Omit<CheckpointHttpErrorInfo, 'operation' | 'attempts'>;
  retryAfterMs: number;
  cause: unknown;
  /** The deadline of the call has ended the attempt before its time. */
  isCut?: boolean;
  /** The deadline of the call has passed before the attempt began. */
  isUnsent?: boolean;
  /** See NetworkFault. */
  isUnreachable?: boolean;
}

/** What an answer to a call has to be. */
interface Expected {
  /** Undefined: any. */
  requestId: string | undefined;
  stranger: (json: unknown) => string | undefined;
}

/** The answer's request id when it is another's. One without may be of a proxy on the way, or of an older service. */
function foreignIdOf({ headers }: Incoming, { requestId }: Expected): string | undefined {
  const answered = headers.get('x-request-id');
  if (answered === null || requestId === undefined) return undefined;
  // A proxy may add an id of its own.
  return answered.split(',').some((id) => id.trim() === requestId) ? undefined : answered;
}

function mismatch(what: string): Failed {
  const detail = `the answer belongs to another request: ${what}`;
  return failed({ detail, isMismatch: true, isRetryable: true });
}

function failed(failure: Failed['failure'], cause?: unknown, retryAfterMs = 0): Failed {
  return { failure, cause, retryAfterMs };
}

function read({ status, statusText, headers, text }: Incoming): Answer | Failed {
  const requestId = headers.get('x-request-id') ?? undefined;
  const known = { status, ...(requestId === undefined ? {} : { requestId }) };
  // Most answers to a store are empty, and what JSON.parse throws of an empty text costs as much as the rest of an answer.
  const json = text === '' ? undefined : parse(text);
  if (status >= 200 && status < 300) {
    if (json !== undefined || text === '') return { json, length: text.length, headers };
    const detail = `the answer is not JSON; is baseUrl right? It begins ${JSON.stringify(excerpt(text))}`;
    return failed({ ...known, detail, isRetryable: false });
  }
  if (status === 0 || (status >= 300 && status < 400)) {
    const target = headers.get('location') ?? 'another address';
    return failed({ ...known, detail: `redirects to ${target}; is baseUrl right?`, isRetryable: false });
  }
  const problem = typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : {};
  return failed(
    {
      ...known,
      type: typeof problem.type === 'string' ? problem.type : undefined,
      detail: [problem.detail, problem.title, json === undefined ? excerpt(text) : '', statusText].find(
        isWords,
      ),
      advice: ADVICE[status],
      isTooLarge: status === 413,
      faults: Array.isArray(problem.errors) ? problem.errors.filter(isFault) : [],
      isRetryable: RETRYABLE.has(status),
    },
    undefined,
    retryAfter(headers.get('retry-after')),
  );
}

/** What a person may read of a text, in one line. */
function excerpt(text: string): string {
  const words = text.slice(0, 10 * EXCERPT_LENGTH).replaceAll(/<(style|script)[^]*?<\/\1>|<[^>]*>|\s+/g, ' ');
  return words.replaceAll(/ +/g, ' ').trim().slice(0, EXCERPT_LENGTH);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isWords(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}

function isFault(value: unknown): value is RequestFault {
  return typeof value === 'object' && value !== null && 'pointer' in value && 'detail' in value;
}

/** Milliseconds from now; seconds and dates are both allowed. */
function retryAfter(value: string | null): number {
  if (value === null) return 0;
  const ms = /^\s*\d+\s*$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(ms) ? 0 : Math.max(0, ms);
}

/**
 * Whether a patched fetch has thrown it to be caught further up: Next.js does when it builds a page in advance and learns that
 * the page asks for what must not be kept. Its errors have a digest, React's a type.
 */
function isOfFramework(error: unknown): boolean {
  if (typeof error !== 'object' || error === null) return false;
  return '$$typeof' in error || ('digest' in error && typeof error.digest === 'string');
}

/** What comes before a time of Date.now(); undefined when nothing does. Rejects with the reason of the ending when that comes. */
function before<T>(endsAt: number, ending: Ending, coming: Promise<T>): Promise<{ value: T } | undefined> {
  return new Promise((resolve, reject) => {
    let forget: () => void = () => undefined;
    const settle = (how: () => void) => {
      clearTimeout(timer);
      forget();
      how();
    };
    const timer = setTimeout(
      () => {
        settle(() => {
          resolve(undefined);
        });
      },
      Math.min(endsAt - Date.now(), MAX_TIMER_MS),
    );
    forget = ending.onEnd(() => {
      settle(() => {
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason is the caller's
        reject(ending.reason);
      });
    });
    coming.then(
      (value) => {
        settle(() => {
          resolve({ value });
        });
      },
      (error: unknown) => {
        settle(() => {
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- as it came
          reject(error);
        });
      },
    );
  });
}

/** Rejects with the reason of the ending as soon as that comes. */
async function sleep(ms: number, ending: Ending): Promise<void> {
  await before(Date.now() + ms, ending, new Promise<never>(() => undefined));
}

/**
 * One id for all attempts of a call, so that also an attempt without an answer is found in the service's log, and an answer is
 * known as the call's own.
 */
function newRequestId(): string {
  // Browsers have randomUUID on pages from https alone.
  if ('randomUUID' in crypto) return crypto.randomUUID();
  const bytes = (crypto as { getRandomValues(array: Uint8Array): Uint8Array }).getRandomValues(
    new Uint8Array(16),
  );
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function warnings(): NonNullable<TransportOptions['onRetry']> {
  let quietUntil = 0;
  return ({ message }, leftMs) => {
    if (Date.now() < quietUntil) return;
    quietUntil = Date.now() + WARNING_INTERVAL_MS;
    const left = Number.isFinite(leftMs) ? ` for up to ${seconds(leftMs)}` : '';
    console.warn(`langgraph-checkpoint-http: ${message}; tries again${left}`);
  };
}

/** The address is not quoted, since it may hold a password. */
function parsed(baseUrl: unknown): URL {
  try {
    return new URL(baseUrl as string);
  } catch (cause) {
    const words = baseUrl === undefined ? 'is missing' : 'must be an absolute URL';
    throw new TypeError(`baseUrl ${words}, such as http://checkpoints:5003`, { cause });
  }
}

function keyHeader(key: string | undefined): Record<string, string> {
  return key === undefined ? {} : { 'x-agent-api-key': key };
}

function lowerCased(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}

/**
 * Without white space around the values, as that which a file of a key ends with. Checked here, so that later an error means the
 * network. The values are secrets and stay out of the message.
 */
function checked(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => {
      const trimmed = value.replaceAll(/^[\t\n\r ]+|[\t\n\r ]+$/g, '');
      if (HEADER_NAME.test(name) && HEADER_VALUE.test(trimmed)) return [name, trimmed];
      throw new TypeError(`The header ${JSON.stringify(name)} has a name or value that HTTP does not allow`);
    }),
  );
}

function positive(name: string, value: number): number {
  if (!(value > 0)) throw new TypeError(`${name} must be greater than 0`);
  return value;
}
