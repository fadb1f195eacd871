import type { CheckpointKey } from '../domain/checkpoint.js';
import { callersThreadId, type StoredThreadId, storedThreadId } from '../domain/tenant.js';

/** What a list's request says of the key itself. Its cursors leave that out: a header has little room. */
export interface FixedKey {
  threadId: StoredThreadId | null;
  checkpointNs: string | null;
}

/** Begins no UTF-8, so no cursor of releases before this one. */
const MARK = 0xf8;
const HAS_THREAD = 1;
const HAS_NAMESPACE = 2;
const LENGTH_BYTES = 4;

/**
 * Where a list goes on, as one opaque word that fits a header: a key of 2,600 bytes takes 3,500 characters, whatever it
 * consists of. It says nothing of the tenant.
 */
export function cursorOf({ threadId, checkpointNs, checkpointId }: CheckpointKey, fixed: FixedKey): string {
  const flags =
    (fixed.threadId === null ? HAS_THREAD : 0) | (fixed.checkpointNs === null ? HAS_NAMESPACE : 0);
  const parts: Uint8Array[] = [Buffer.from([MARK | flags])];
  if (flags & HAS_THREAD) parts.push(...withLength(callersThreadId(threadId)));
  if (flags & HAS_NAMESPACE) parts.push(...withLength(checkpointNs));
  parts.push(Buffer.from(checkpointId));
  return Buffer.concat(parts).toString('base64url');
}

/** The key in the tenant's threads that `cursorOf` made the word of; null for any other word. */
export function keyOf(cursor: string, tenant: string, fixed: FixedKey): CheckpointKey | null {
  const bytes = Buffer.from(cursor, 'base64url');
  const parts = ((bytes[0] ?? 0) & MARK) === MARK ? partsOf(bytes, fixed) : partsOfJson(bytes);
  if (parts === null) return null;
  const [id, checkpointNs, checkpointId] = parts;
  const threadId = id === null ? fixed.threadId : storedThreadId(tenant, id);
  return threadId && { threadId, checkpointNs, checkpointId };
}

type Parts = [threadId: string | null, checkpointNs: string, checkpointId: string];

function partsOf(bytes: Buffer, fixed: FixedKey): Parts | null {
  const flags = (bytes[0] ?? 0) & ~MARK;
  let at = 1;
  const part = (length: number): string | null => {
    const text = bytes.subarray(at, at + length).toString();
    at += length;
    return at <= bytes.length && isStorable(text) ? text : null;
  };
  const partWithLength = () => {
    if (at + LENGTH_BYTES > bytes.length) return null;
    at += LENGTH_BYTES;
    return part(bytes.readUInt32BE(at - LENGTH_BYTES));
  };
  const threadId = flags & HAS_THREAD ? partWithLength() : null;
  if (threadId === null && (flags & HAS_THREAD || fixed.threadId === null)) return null;
  const checkpointNs = flags & HAS_NAMESPACE ? partWithLength() : fixed.checkpointNs;
  const checkpointId = at <= bytes.length ? part(bytes.length - at) : null;
  return checkpointNs === null || checkpointId === null ? null : [threadId, checkpointNs, checkpointId];
}

/** As releases before this one made them; to be dropped with the next one. */
function partsOfJson(bytes: Buffer): Parts | null {
  try {
    const parts = JSON.parse(bytes.toString()) as unknown;
    return Array.isArray(parts) && parts.length === 3 && parts.every(isStorable) ? (parts as Parts) : null;
  } catch {
    return null;
  }
}

function withLength(text: string): Buffer[] {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32BE(bytes.length);
  return [length, bytes];
}

function isStorable(part: unknown): part is string {
  return typeof part === 'string' && part.isWellFormed() && !part.includes('\0');
}
