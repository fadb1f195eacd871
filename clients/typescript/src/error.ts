/** One fault of a request that the service refused as a whole. */
export interface RequestFault {
  /** JSON pointer into the request, such as `#/thread_id`. */
  pointer: string;
  detail: string;
}

/** What is known about a call that did not succeed. */
export interface CheckpointHttpErrorInfo {
  /** The operation as the service names it, such as `put-writes`. */
  operation: string;
  /** The thread, or threads, that it was about; undefined for all of them. */
  threadId?: string | undefined;
  /** HTTP status of the last answer; undefined when none arrived. */
  status?: number | undefined;
  /** Stable problem type (RFC 9457), such as `/problems/queue-full`; undefined when the answer was no problem document. */
  type?: string | undefined;
  /** What went wrong, for people. */
  detail?: string | undefined;
  /** What may help, for people. */
  advice?: string | undefined;
  /** Every fault of a request that got 422. */
  faults?: readonly RequestFault[] | undefined;
  /** The `x-request-id` under which the service logged the last attempt. */
  requestId?: string | undefined;
  /** How many times the request was sent; 0 when it waited for its turn to the end. */
  attempts: number;
  /** Milliseconds from the begin of the call to its end. */
  elapsedMs?: number | undefined;
  /** The option whose time has passed: `deadlineMs` or `firstAnswerMs`; undefined when the call ended for another reason. */
  limit?: string | undefined;
  /** Whether the same request may succeed later. */
  isRetryable: boolean;
  /**
   * Whether answers came that belong to other requests; nothing of them was used. Something on the way mixes answers up, or
   * replaces `x-request-id` (see `checkRequestId`).
   */
  isMismatch?: boolean | undefined;
  /** Whether the request or its answer is larger than the service, or this process, takes. */
  isTooLarge?: boolean | undefined;
}

/**
 * A call that the service refused, or that got no answer before its deadline. Branch on `type` or `status`; the message is
 * for people. When the network failed, `cause` is the error that it gave.
 */
export class CheckpointHttpError extends Error implements CheckpointHttpErrorInfo {
  override readonly name = 'CheckpointHttpError';
  readonly operation: string;
  readonly threadId: string | undefined;
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly detail: string | undefined;
  readonly advice: string | undefined;
  readonly faults: readonly RequestFault[];
  readonly requestId: string | undefined;
  readonly attempts: number;
  readonly elapsedMs: number | undefined;
  readonly limit: string | undefined;
  readonly isRetryable: boolean;
  readonly isMismatch: boolean;
  readonly isTooLarge: boolean;

  constructor(info: CheckpointHttpErrorInfo, options?: ErrorOptions) {
    super(messageOf(info), options);
    this.operation = info.operation;
    this.threadId = info.threadId;
    this.status = info.status;
    this.type = info.type;
    this.detail = info.detail;
    this.advice = info.advice;
    this.faults = info.faults ?? [];
    this.requestId = info.requestId;
    this.attempts = info.attempts;
    this.elapsedMs = info.elapsedMs;
    this.limit = info.limit;
    this.isRetryable = info.isRetryable;
    this.isMismatch = info.isMismatch ?? false;
    this.isTooLarge = info.isTooLarge ?? false;
  }
}

function messageOf(info: CheckpointHttpErrorInfo): string {
  const { operation, threadId, status, type, detail, advice, faults = [], requestId } = info;
  const { attempts, elapsedMs, limit } = info;
  const subject = threadId === undefined ? '' : ` of thread ${JSON.stringify(threadId)}`;
  const tries = ['before it was sent', ''][attempts] ?? `after ${attempts} attempts`;
  const answer = [status, type, detail].filter((part) => part !== undefined).join(' ');
  const list = faults.map(({ pointer, detail }) => `; ${pointer} ${detail}`).join('');
  const time =
    limit === undefined || elapsedMs === undefined ? '' : `; tried for ${seconds(elapsedMs)}, see ${limit}`;
  const help = advice === undefined ? '' : `. ${advice}`;
  const id = requestId === undefined ? '' : ` (request ${requestId})`;
  return `${operation}${subject} failed${tries && ` ${tries}`}: ${answer}${list}${time}${help}${id}`;
}

/** Milliseconds, for people. */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}
