import type { CheckpointKey } from '../checkpoint.js';
import { callersThreadId, storedThreadId } from '../tenant.js';

/** Where a list goes on, as one opaque word that fits a header. It says nothing of the tenant. */
export function cursorOf({ threadId, checkpointNs, checkpointId }: CheckpointKey): string {
  return Buffer.from(JSON.stringify([callersThreadId(threadId), checkpointNs, checkpointId])).toString(
    'base64url',
  );
}

/** The key in the tenant's threads that `cursorOf` made the word of; null for any other word. */
export function keyOf(cursor: string, tenant: string): CheckpointKey | null {
  try {
    const parts = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as unknown;
    if (!Array.isArray(parts) || parts.length !== 3) return null;
    const [id, checkpointNs, checkpointId] = parts as unknown[];
    if (!isStorable(id) || !isStorable(checkpointNs) || !isStorable(checkpointId)) return null;
    const threadId = storedThreadId(tenant, id);
    return threadId && { threadId, checkpointNs, checkpointId };
  } catch {
    return null;
  }
}

function isStorable(part: unknown): part is string {
  return typeof part === 'string' && part.isWellFormed() && !part.includes('\0');
}
