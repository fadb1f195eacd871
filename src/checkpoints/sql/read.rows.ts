import type {
  CheckpointPage,
  CheckpointTuple,
  StoredBlob,
  StoredBytes,
  StoredWrite,
  TuplePart,
} from '../domain/checkpoint.js';
import { fromJsonb } from './jsonb-text.js';
import type { StoredThreadId } from '../domain/tenant.js';

/**
 * A checkpoint, the k-th one of the read with that number; or, with a `kind`, what belongs to it. A checkpoint without
 * documents, and one of the kind `beyond`, only tell that there are more: that one is not part of the page.
 */
export type Row = [
  a: string,
  b: string,
  c: string,
  d: string | null,
  e: string | null,
  f: string | null,
  g: string | null,
  asked: number,
  k: number,
  kind?: TuplePart | 'beyond' | null,
  blob?: StoredBytes | null,
];

interface Reading {
  limit: number;
  page: CheckpointPage;
}

/**
 * Puts the pages of an answer together; returns how many characters of documents and Base64 the longest one has, and
 * whether one ends where its bytes do.
 */
export function fill(parts: TuplePart[], reads: Reading[], rows: Row[]): { longest: number; isCut: boolean } {
  const lengths = reads.map(() => 0);
  let isCut = false;
  for (const row of rows) {
    const [, , , , , checkpoint, , asked, k, kind = null, blob = null] = row;
    const at = asked - 1;
    const { page, limit } = reads[at] as Reading;
    const { tuples } = page;
    let length = blob?.length ?? 0;
    if (kind === 'beyond' || (kind === null && checkpoint === null)) {
      if (kind !== null) tuples.length = k - 1; // what had come of it
      page.next = tuples.at(-1)?.key ?? null;
      isCut ||= tuples.length < limit;
    } else if (kind === null) {
      const tuple = toTuple(row, parts);
      tuples.push(tuple);
      length = tuple.checkpoint.length + tuple.metadata.length;
    } else {
      const tuple = tuples[k - 1];
      if (kind === 'blobs') tuple?.blobs?.push(toBlob(row));
      else (kind === 'pending_writes' ? tuple?.pendingWrites : tuple?.pendingSends)?.push(toWrite(row));
    }
    lengths[at] = (lengths[at] ?? 0) + length;
  }
  return { longest: Math.max(...lengths), isCut };
}

function toTuple(
  [threadId, checkpointNs, checkpointId, parent, mark, checkpoint, metadata]: Row,
  parts: TuplePart[],
): CheckpointTuple {
  const tuple: CheckpointTuple = {
    key: { threadId: threadId as StoredThreadId, checkpointNs, checkpointId },
    parentCheckpointId: parent,
    checkpoint: fromJsonb(checkpoint ?? '', mark),
    metadata: fromJsonb(metadata ?? '', mark),
  };
  if (parts.includes('blobs')) tuple.blobs = [];
  if (parts.includes('pending_writes')) tuple.pendingWrites = [];
  if (parts.includes('pending_sends')) tuple.pendingSends = [];
  return tuple;
}

function toBlob(row: Row): StoredBlob {
  const [channel, version, type] = row;
  return { channel, version, type, blob: row[10] ?? null };
}

/** `idx` comes as text, whatever the type of an adopted column is. */
function toWrite(row: Row): StoredWrite {
  const [taskId, channel, taskPath, type, idx] = row;
  return { taskId, idx: Number(idx), channel, type, blob: row[10] ?? '', taskPath };
}
