import type { ProblemCode } from '../../errors/errors.js';

/** How a problem is shown to the caller, and whether a client may send the same request again. */
export interface ProblemKind {
  status: number;
  title: string;
  when: string;
  retry: boolean;
}

/** The one table of status codes; `errors.ts` names the codes, docs/reference/problems.md repeats it in words. */
export const PROBLEMS: Record<ProblemCode, ProblemKind> = {
  'malformed-body': {
    status: 400,
    title: 'The body is not JSON',
    when: 'the body is empty, not JSON, not UTF-8, or not compressed as its header says',
    retry: false,
  },
  unauthorized: {
    status: 401,
    title: 'No valid key',
    when: 'there is no key or token, or it is wrong, expired or revoked',
    retry: false,
  },
  forbidden: {
    status: 403,
    title: 'Not allowed',
    when: 'the key or token is valid, and its scopes or its tenant do not cover the operation',
    retry: false,
  },
  'keys-elsewhere': {
    status: 409,
    title: 'Keys are kept elsewhere',
    when: 'the operation is about keys, and AUTH_MODE does not name keys or API_KEYS_FILE holds them',
    retry: false,
  },
  'unsupported-media-type': {
    status: 415,
    title: 'Unsupported media type',
    when: 'the content type is not application/json, or the content encoding not gzip, deflate or br',
    retry: false,
  },
  'limit-exceeded': {
    status: 413,
    title: 'Over a limit',
    when: 'the body, a blob, a document, the number of rows or an answer is over its limit; detail names the limit and its value',
    retry: false,
  },
  'invalid-request': {
    status: 422,
    title: 'The request does not fit the operation',
    when: 'a field is missing, of the wrong type, out of range or not Base64, or a key is too long; errors lists the first 100 faults',
    retry: false,
  },
  'unstorable-document': {
    status: 422,
    title: 'A document that Postgres cannot store',
    when: 'checkpoint, metadata or filter_metadata holds a number too large for jsonb, or is nested too deeply; errors tells which',
    retry: false,
  },
  'statement-too-large': {
    status: 422,
    title: 'More than Postgres can hold in one value',
    when: 'what is stored or asked for would be a value of over 1 GB in Postgres',
    retry: false,
  },
  'queue-full': {
    status: 503,
    title: 'Too many requests wait',
    when: 'QUEUE_MAX requests wait already for a connection or for memory; nothing was done',
    retry: true,
  },
  'queue-timeout': {
    status: 503,
    title: 'The request waited too long',
    when: 'the request waited QUEUE_WAIT_MS for a connection or for memory; nothing was done',
    retry: true,
  },
  'issuer-unavailable': {
    status: 503,
    title: 'Issuer unavailable',
    when: "the keys of the tokens' issuer cannot be fetched, so a token cannot be checked; nothing was done",
    retry: true,
  },
  'database-unavailable': {
    status: 503,
    title: 'Database unavailable',
    when: 'the database could not be reached for OUTAGE_WAIT_MS, a statement took over STATEMENT_TIMEOUT_MS or waited that long for locks, or Postgres had no memory for it',
    retry: true,
  },
};

/** Seconds after which a client may send a request again that got 503. */
export const RETRY_AFTER_SECONDS = 1;
