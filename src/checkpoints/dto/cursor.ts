import type { CheckpointKey } from '../checkpoint.js';

/** Where a list goes on, as one opaque word that fits a header. */
export function cursorOf({ threadId, checkpointNs, checkpointId }: CheckpointKey): string {
  return Buffer.from(JSON.stringify([threadId, checkpointNs, checkpointId])).toString('base64url');
}

/** The key that `cursorOf` made the word of; null for any other word. */
export function keyOf(cursor: string): CheckpointKey | null {
  try {
    const parts = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as unknown;
    if (!Array.isArray(parts) || parts.length !== 3) return null;
    const [threadId, checkpointNs, checkpointId] = parts as unknown[];
    if (!isStorable(threadId) || !isStorable(checkpointNs) || !isStorable(checkpointId)) return null;
    return { threadId, checkpointNs, checkpointId };
  } catch {
    return null;
  }
}

function isStorable(part: unknown): part is string {
  return typeof part === 'string' && part.isWellFormed() && !part.includes('\0');
}
