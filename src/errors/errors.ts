/** The stable part of a problem's `type`. Each has its status and title in `http/problem.ts`. */
export type ProblemCode =
  | 'malformed-body'
  | 'unauthorized'
  | 'forbidden'
  | 'keys-elsewhere'
  | 'issuer-unavailable'
  | 'unsupported-media-type'
  | 'invalid-request'
  | 'unstorable-document'
  | 'limit-exceeded'
  | 'queue-full'
  | 'queue-timeout'
  | 'statement-too-large'
  | 'database-unavailable';

/** Something that was refused, in words that may be shown to the caller. */
export abstract class DomainError extends Error {
  abstract readonly code: ProblemCode;
}

/** One fault of a request. `pointer` is a JSON pointer in URI fragment form, such as `#/writes/0/idx`. */
export interface Fault {
  pointer: string;
  detail: string;
}

/** A list of rows may have several for each; nobody reads them all. */
export const MAX_FAULTS = 100;

/** The body is not JSON in UTF-8. */
export class MalformedBodyError extends DomainError {
  readonly code = 'malformed-body';
}

/** Nobody is known by what the request was sent with. One text for all reasons, so that none can be found out. */
export class UnauthorizedError extends DomainError {
  readonly code = 'unauthorized';

  constructor() {
    super('A valid key is needed, as x-agent-api-key or as Authorization: Bearer');
  }
}

/** The caller is known, and may not do this. */
export class ForbiddenError extends DomainError {
  readonly code = 'forbidden';
}

/** The keys of the tokens' issuer cannot be fetched, so nobody can say whether a token is valid. */
export class IssuerUnavailableError extends DomainError {
  readonly code = 'issuer-unavailable';
}

/** The keys are not in the database. */
export class KeysElsewhereError extends DomainError {
  readonly code = 'keys-elsewhere';

  constructor() {
    super('Keys are managed here only with keys in AUTH_MODE and without API_KEYS_FILE');
  }
}

/** The content type or encoding is none that the service reads. */
export class UnsupportedMediaTypeError extends DomainError {
  readonly code = 'unsupported-media-type';
}

/** The body is JSON, but not what the operation takes. */
export class InvalidRequestError extends DomainError {
  readonly code = 'invalid-request';

  readonly faults: Fault[];

  /** `total`: how many there are, when not all of them are told. */
  constructor(faults: Fault[], total = faults.length) {
    const told = faults.slice(0, MAX_FAULTS);
    const more = total > told.length ? `, of which ${told.length} are told` : '';
    super(total === 1 ? 'The request has a fault' : `The request has ${total} faults${more}`);
    this.faults = told;
  }
}

/** A copied thread's rows would have keys that no index holds. */
export class KeyTooLongError extends InvalidRequestError {
  constructor() {
    super([
      { pointer: '#/target_thread_id', detail: 'makes keys that are too long, all their parts together' },
    ]);
  }
}

/** The tenant has no such key, or none that still works. */
export class UnknownKeyError extends InvalidRequestError {
  constructor() {
    super([{ pointer: '#/id', detail: 'is no key of the tenant, or has ended' }]);
  }
}

/** Postgres cannot store the document: nested too deeply, a number or text beyond what jsonb holds. */
export class UnstorableDocumentError extends DomainError {
  readonly code = 'unstorable-document';
  readonly faults: Fault[] | undefined;

  /** `fault` names the document and what is wrong with it, when that is known. */
  constructor(message: string, { fault, cause }: { fault?: Fault; cause?: unknown } = {}) {
    super(message, { cause });
    this.faults = fault && [fault];
  }
}

/** More than a setting allows. */
export class LimitExceededError extends DomainError {
  readonly code = 'limit-exceeded';

  constructor(what: string, setting: string, limit: number) {
    super(`${what} is over the limit ${setting} = ${limit}`);
  }
}

/** As many requests wait as may. Nothing was done. */
export class QueueFullError extends DomainError {
  readonly code = 'queue-full';
}

/** The request waited too long for its turn. Nothing was done. */
export class QueueTimeoutError extends DomainError {
  readonly code = 'queue-timeout';
}

/** The database could not be reached for as long as a request may wait. */
export class DatabaseUnavailableError extends DomainError {
  readonly code = 'database-unavailable';
}

/** Postgres ended the statement after `STATEMENT_TIMEOUT_MS`. Nothing was done. */
export class StatementTimeoutError extends DatabaseUnavailableError {}

/** What the request asks for is more than Postgres holds in one value, so that it can never be carried out. */
export class StatementTooLargeError extends DomainError {
  readonly code = 'statement-too-large';
}
