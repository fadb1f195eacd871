import type { IncomingMessage, ServerResponse } from 'node:http';
import { Caller } from './caller.js';
import type { Pace } from './pace.js';

/** What the requests of one tenant take together. */
export interface Account {
  tenant: string;
  requests: number;
  /** Of bodies; `smallBytes` of those that are small. */
  bodyBytes: number;
  smallBytes: number;
  /** Of answers; of a single one a part of the memory at most. */
  answerBytes: number;
  /** In the order of their arrival. */
  waiting: Waiting[];
}

/** A body that waits for memory. */
export interface Waiting {
  share: Share;
  bytes: number;
  go: (error?: Error) => void;
  timer: NodeJS.Timeout;
}

/** What one request takes of the memory, from its arrival until its answer is written or its connection is gone. */
export class Share implements Pace {
  readonly caller: Caller;
  /** Granted to its body: what has arrived, and some more that may. */
  bodyBytes = 0;
  /** What has arrived of its body, as it was sent and as it is inflated. */
  arrivedBytes = 0;
  answerBytes = 0;
  /** Whether its body is being read. */
  isReading = true;
  waiting: Waiting | null = null;
  /** What had arrived at the last sweep. */
  sweptBytes = 0;
  paceBytes = 0;
  paceAt = 0;

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
