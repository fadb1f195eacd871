import { CheckpointHttpError, type CheckpointHttpErrorInfo, type RequestFault } from './error.js';

/** How the service is reached. Times are in milliseconds. */
export interface TransportOptions {
  /** Where the service is, such as `http://checkpoints:5003`; a path is kept as a prefix. */
  baseUrl: string | URL;
  /** Sent as `x-agent-api-key`. */
  apiKey?: string | undefined;
  /** Sent with every request; they win over the client's own. */
  headers?: Record<string, string> | undefined;
  /**
   * How long one attempt may take, its answer included. It should exceed the time that the service itself waits for its
   * database (`QUEUE_WAIT_MS` and `OUTAGE_WAIT_MS`, 40 s together). Default 60,000.
   */
  timeoutMs?: number | undefined;
  /** How long one call may take with all its attempts and the pauses between them. Default 120,000. */
  deadlineMs?: number | undefined;
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
  /** Used instead of the global `fetch`, for a proxy, an own connection pool or mutual TLS. */
  fetch?: typeof fetch | undefined;
}

interface Call {
  /** For errors. */
  threadId?: string | undefined;
  /** Ends the call, also while it waits to try again. */
  signal?: AbortSignal | undefined;
  /** The call stores something: it goes on for `abortGraceMs` after the signal was aborted. */
  isStore?: boolean;
}

export interface Answer {
  /** The parsed body; undefined when there was none. */
  json: unknown;
  headers: Headers;
}

const RETRYABLE = new Set([408, 425, 429, 502, 503, 504]);
/** A timer that should wait longer fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** Node's codes for certificates that will not become valid by waiting. */
const HOPELESS = /CERT|SIGNATURE/;

/** Sends the operations of a checkpoint-backend, again and again until one attempt succeeds or the deadline has passed. */
export class Transport {
  private readonly base: string;
  private readonly headers: Record<string, string>;
  private readonly timeoutMs: number;
  private readonly deadlineMs: number;
  private readonly backoffMs: number;
  private readonly maxBackoffMs: number;
  private readonly gzipFromBytes: number;
  private readonly abortGraceMs: number;
  private readonly fetch: typeof fetch;
  private free: number;
  private readonly queue = new Set<() => void>();

  /** @throws TypeError when an option makes no sense */
  constructor(options: TransportOptions) {
    const url = new URL(options.baseUrl);
    if (!/^https?:$/.test(url.protocol)) throw new TypeError('baseUrl must start with http: or https:');
    if (url.username !== '' || url.password !== '') {
      throw new TypeError('baseUrl must not hold a user or password; use apiKey or headers');
    }
    if (url.search !== '' || url.hash !== '')
      throw new TypeError('baseUrl must not hold a query or fragment');
    this.base = `${url.href.replace(/\/+$/, '')}/checkpoints/`;
    this.headers = checked({
      ...(options.apiKey === undefined ? {} : { 'x-agent-api-key': options.apiKey }),
      ...lowerCased(options.headers ?? {}),
    });
    this.timeoutMs = positive('timeoutMs', options.timeoutMs ?? 60_000);
    this.deadlineMs = positive('deadlineMs', options.deadlineMs ?? 120_000);
    this.backoffMs = positive('backoffMs', options.backoffMs ?? 100);
    this.maxBackoffMs = positive('maxBackoffMs', options.maxBackoffMs ?? 5_000);
    this.gzipFromBytes = positive('gzipFromBytes', options.gzipFromBytes ?? 65_536);
    this.free = positive('maxConcurrency', options.maxConcurrency ?? 64);
    this.abortGraceMs = options.abortGraceMs ?? 5_000;
    // Bound late, so that a global fetch that is instrumented or mocked afterwards is the one that is used.
    this.fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
  }

  /**
   * Posts the operation. Every operation may be repeated, so every failure that may pass is tried again: broken connections,
   * timeouts and 408, 425, 429, 502, 503 and 504.
   * @throws CheckpointHttpError when the service refuses, or has not answered when the deadline is reached
   * @throws the reason of the signal when it is aborted
   */
  async call(
    operation: string,
    body: object,
    { threadId, signal, isStore = false }: Call = {},
  ): Promise<Answer> {
    if (!isStore || signal === undefined) return this.repeat(operation, body, threadId, signal);
    const late = delayed(signal, this.abortGraceMs);
    try {
      return await this.repeat(operation, body, threadId, late.signal);
    } finally {
      late.dispose();
    }
  }

  private async repeat(
    operation: string,
    body: object,
    threadId: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Answer> {
    signal?.throwIfAborted();
    const deadline = Date.now() + this.deadlineMs;
    const payload = await this.encode(JSON.stringify(body));
    const requestId = this.headers['x-request-id'] ?? newRequestId();
    const headers = {
      accept: 'application/json, application/problem+json',
      'content-type': 'application/json',
      ...(payload.encoding === null ? {} : { 'content-encoding': payload.encoding }),
      ...(requestId === undefined ? {} : { 'x-request-id': requestId }),
      ...this.headers,
    };
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.turn(signal, () =>
        this.attempt(operation, payload.bytes, headers, deadline - Date.now(), signal),
      );
      if ('json' in outcome) return outcome;
      const { failure, retryAfterMs, cause } = outcome;
      const pauseMs = retryAfterMs + this.jitter(attempt);
      if (!failure.isRetryable || Date.now() + pauseMs >= deadline) {
        const info = { requestId, ...failure, operation, threadId, attempts: attempt };
        throw new CheckpointHttpError(info, { cause });
      }
      await sleep(pauseMs, signal);
    }
  }

  /** Full jitter: anything from none to the exponential bound, so that clients which failed together do not return together. */
  private jitter(attempt: number): number {
    return Math.random() * Math.min(this.maxBackoffMs, this.backoffMs * 2 ** (attempt - 1));
  }

  /** Runs the attempt as soon as one of the places is free. */
  private async turn<T>(signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free -= 1;
    else await this.place(signal);
    try {
      return await attempt();
    } finally {
      const [next] = this.queue;
      if (next === undefined) this.free += 1;
      else next();
    }
  }

  /** Waits in the queue until a place is handed over. */
  private place(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.queue.delete(enter);
        signal?.removeEventListener('abort', stop);
      };
      const enter = () => {
        leave();
        resolve();
      };
      const stop = () => {
        leave();
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason is the caller's
        reject(signal?.reason);
      };
      this.queue.add(enter);
      if (signal?.aborted) stop();
      else signal?.addEventListener('abort', stop, { once: true });
    });
  }

  private async attempt(
    operation: string,
    body: string | Uint8Array<ArrayBuffer>,
    headers: Record<string, string>,
    remainingMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Answer | Failed> {
    const timeoutMs = Math.min(this.timeoutMs, remainingMs, MAX_TIMER_MS);
    if (timeoutMs <= 0) return failed({ detail: 'the deadline passed', isRetryable: false });
    const abort = new AbortController();
    const stop = () => {
      abort.abort(signal?.reason);
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
    const timer = setTimeout(() => {
      abort.abort(new DOMException(`No answer within ${timeoutMs} ms`, 'TimeoutError'));
    }, timeoutMs);
    let response: Response;
    let text: string;
    try {
      response = await this.fetch(this.base + operation, {
        method: 'POST',
        headers,
        body,
        signal: abort.signal,
        // The key must not follow a redirect to another host.
        redirect: 'manual',
      });
      // To its end, also when it is an error: only then is the connection free for the next request.
      text = await response.text();
    } catch (error) {
      signal?.throwIfAborted();
      const cause: unknown = abort.signal.aborted ? abort.signal.reason : error;
      return failed(
        { detail: `no answer: ${reasonOf(cause)}`, isRetryable: !HOPELESS.test(codeOf(cause)) },
        cause,
      );
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
    return read(response, text);
  }

  private async encode(
    json: string,
  ): Promise<{ bytes: string | Uint8Array<ArrayBuffer>; encoding: string | null }> {
    // No character is longer than three bytes, so most bodies need not be encoded to know that they are short.
    if (json.length * 3 < this.gzipFromBytes || typeof CompressionStream === 'undefined') {
      return { bytes: json, encoding: null };
    }
    const bytes = new TextEncoder().encode(json);
    if (bytes.length < this.gzipFromBytes) return { bytes, encoding: null };
    const gzip = new CompressionStream('gzip') as unknown as ReadableWritablePair<Uint8Array, Uint8Array>;
    const zipped = new Uint8Array(
      await new Response(new Blob([bytes]).stream().pipeThrough(gzip) as ReadableStream).arrayBuffer(),
    );
    return zipped.length < bytes.length ? { bytes: zipped, encoding: 'gzip' } : { bytes, encoding: null };
  }
}

type ReadableWritablePair<Out, In> = { readable: ReadableStream<Out>; writable: WritableStream<In> };

interface Failed {
  failure: Omit<CheckpointHttpErrorInfo, 'operation' | 'attempts'>;
  retryAfterMs: number;
  cause: unknown;
}

function failed(failure: Failed['failure'], cause?: unknown, retryAfterMs = 0): Failed {
  return { failure, cause, retryAfterMs };
}

function read(response: Response, text: string): Answer | Failed {
  const { status, headers } = response;
  const requestId = headers.get('x-request-id') ?? undefined;
  const known = { status, ...(requestId === undefined ? {} : { requestId }) };
  const json = parse(text);
  if (response.ok) {
    if (json !== undefined || text === '') return { json, headers };
    return failed({ ...known, detail: 'the answer is not JSON; is baseUrl right?', isRetryable: false });
  }
  if (response.type === 'opaqueredirect' || (status >= 300 && status < 400)) {
    const target = headers.get('location') ?? 'another address';
    return failed({ ...known, detail: `redirects to ${target}; is baseUrl right?`, isRetryable: false });
  }
  const problem = typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : {};
  return failed(
    {
      ...known,
      type: typeof problem.type === 'string' ? problem.type : undefined,
      detail: [problem.detail, problem.title, response.statusText].find(isWords),
      faults: Array.isArray(problem.errors) ? problem.errors.filter(isFault) : [],
      isRetryable: RETRYABLE.has(status),
    },
    undefined,
    retryAfter(headers.get('retry-after')),
  );
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

/** fetch says only "fetch failed"; its cause knows why. By shape, since errors may come from another realm. */
function reasonOf(error: unknown): string {
  const { message, cause } = (error ?? {}) as { message?: unknown; cause?: { message?: unknown } | null };
  const why = codeOf(error) || cause?.message;
  return isWords(why) ? `${String(message)} (${why})` : String(message ?? error);
}

function codeOf(error: unknown): string {
  const code = (error as { cause?: { code?: unknown } | null } | undefined | null)?.cause?.code;
  return isWords(code) ? code : '';
}

/** Rejects with the signal's reason as soon as it is aborted. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason is the caller's
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener('abort', stop);
        resolve();
      },
      Math.min(ms, MAX_TIMER_MS),
    );
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}

/** The signal, but later. */
function delayed(signal: AbortSignal, ms: number): { signal: AbortSignal; dispose: () => void } {
  const late = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const abort = () => {
    late.abort(signal.reason);
  };
  const start = () => {
    if (ms > 0) timer = setTimeout(abort, ms);
    else abort();
  };
  if (signal.aborted) start();
  else signal.addEventListener('abort', start, { once: true });
  const dispose = () => {
    clearTimeout(timer);
    signal.removeEventListener('abort', start);
  };
  return { signal: late.signal, dispose };
}

/** One id for all attempts of a call, so that also an attempt without an answer is found in the service's log. */
function newRequestId(): string | undefined {
  // Browsers have randomUUID on pages from https alone.
  return 'randomUUID' in crypto ? crypto.randomUUID() : undefined;
}

function lowerCased(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}

/** Checked here, so that later a TypeError of fetch means the network. The values are secrets and stay out of the message. */
function checked(headers: Record<string, string>): Record<string, string> {
  for (const [name, value] of Object.entries(headers)) {
    try {
      new Headers([[name, value]]);
    } catch {
      throw new TypeError(`The header ${JSON.stringify(name)} has a name or value that HTTP does not allow`);
    }
  }
  return headers;
}

function positive(name: string, value: number): number {
  if (!(value > 0)) throw new TypeError(`${name} must be greater than 0`);
  return value;
}
