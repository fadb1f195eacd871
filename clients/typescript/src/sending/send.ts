import type { Ending } from '../ending.js';

/** One request to the service. */
export interface Outgoing {
  /** As the service names it, such as `get-tuple`. */
  operation: string;
  headers: Record<string, string>;
  /** A text is sent as UTF-8. */
  body: string | Uint8Array<ArrayBuffer>;
  ending: Ending;
  /** It follows one without an answer, so connections that were opened before may be dead. */
  isFresh: boolean;
}

/** A whole answer. */
export interface Incoming {
  /** 0 for a redirect of which a browser tells nothing. */
  status: number;
  statusText: string;
  headers: Pick<Headers, 'get'>;
  /** The decompressed body. */
  text: string;
}

/**
 * One attempt: a `POST`, without following redirects, since the key must not go to another host. Rejects with what the network
 * said; as soon as it has to end, with anything.
 * @throws AnswerTooLargeError when the answer has more characters than a string can hold
 */
export type Send = (request: Outgoing) => Promise<Incoming>;

/** An answer of more characters than a string can hold: 2²⁹ − 24 in V8. */
export class AnswerTooLargeError extends Error {
  override readonly name = 'AnswerTooLargeError';

  constructor(options?: ErrorOptions) {
    super('the answer is larger than a JavaScript string can be (512 MiB in Node)', options);
  }
}
