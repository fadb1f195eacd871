import { InvalidRequestError, MalformedBodyError } from '../../errors/errors.js';
import type { Settings } from '../../config/env.js';
import { type BodyForm, JSON_OBJECT } from './json-body.js';

/** What an operation of a batch is called by. */
const OPERATIONS = ['put', 'put-writes'] as const;
export type BatchedOperation = (typeof OPERATIONS)[number];

/** Each may wait in the queue, and has a result in the answer. */
const MAX_OPERATIONS = 256;
/** An action is short; a longer line is none. */
const MAX_ACTION_BYTES = 1000;
const NEWLINE = 0x0a;

/** An operation of a batch, and the line of its request. */
export class BatchItem {
  constructor(
    readonly operation: BatchedOperation,
    private readonly line: Buffer,
    private readonly settings: Settings,
  ) {}

  /** What the request would be if it had come alone. @throws DomainError */
  read(): object {
    return JSON_OBJECT.parse(this.line, this.settings);
  }
}

/** The body of a batch. Its requests have not been read: all at once would hold up everybody else. */
export class BatchBody {
  constructor(readonly items: BatchItem[]) {}
}

/**
 * A batch: for each operation a line that names it, `{"operation":"put"}`, and a line with its request. JSON texts hold no line
 * break inside, so a request that is not JSON leaves the others whole, and each has the limits that it has alone.
 */
export const BATCH: BodyForm = { type: 'application/x-ndjson', parse: parseBatch };

function parseBatch(bytes: Buffer, settings: Settings): BatchBody {
  if (bytes.length === 0) throw new MalformedBodyError('The body is empty');
  const items: BatchItem[] = [];
  const lines = linesOf(bytes);
  for (const action of lines) {
    const operation = operationOf(action.bytes);
    const request = lines.next();
    if (operation === undefined)
      throw refusal(action.number, `must be {"operation":"put"} or {"operation":"put-writes"}`);
    if (request.done === true) throw refusal(action.number, 'must be followed by a line with the request');
    if (items.length === MAX_OPERATIONS)
      throw refusal(action.number, `is beyond the ${MAX_OPERATIONS} operations of a batch`);
    items.push(new BatchItem(operation, request.value.bytes, settings));
  }
  return new BatchBody(items);
}

function* linesOf(bytes: Buffer): Generator<{ number: number; bytes: Buffer }> {
  for (let at = 0, number = 1; at < bytes.length; number += 1) {
    const found = bytes.indexOf(NEWLINE, at);
    const end = found === -1 ? bytes.length : found;
    yield { number, bytes: bytes.subarray(at, end) };
    at = end + 1;
  }
}

function operationOf(line: Buffer): BatchedOperation | undefined {
  if (line.length > MAX_ACTION_BYTES) return undefined;
  try {
    const action = JSON.parse(line.toString()) as { operation?: unknown } | null;
    return OPERATIONS.find((name) => name === action?.operation);
  } catch {
    return undefined;
  }
}

function refusal(line: number, detail: string): InvalidRequestError {
  return new InvalidRequestError([{ pointer: '#', detail: `line ${line} ${detail}` }]);
}
