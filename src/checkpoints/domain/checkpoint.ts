import type { StoredThreadId, TenantThreads } from './tenant.js';

/** The domain's words, LangGraph's own. JSON documents are exact JSON texts; nothing here parses them. */

/** Names one checkpoint. `checkpointNs` is `''` for the root graph. */
export interface CheckpointKey {
  threadId: StoredThreadId;
  checkpointNs: string;
  checkpointId: string;
}

/** The value of a channel at a version. `blob` is null when the channel was empty. */
export interface ChannelBlob {
  channel: string;
  version: string;
  type: string;
  blob: Buffer | null;
}

/** What a task wrote. Negative `idx` are LangGraph's special channels. */
export interface PendingWrite {
  taskId: string;
  idx: number;
  channel: string;
  type: string | null;
  blob: Buffer;
  taskPath: string;
}

/** A checkpoint to be stored. */
export interface NewCheckpoint {
  key: CheckpointKey;
  parentCheckpointId: string | null;
  checkpoint: string;
  metadata: string;
  blobs: ChannelBlob[];
}

/** Bytes as they are read: Base64, or as they are when they are many. */
export type StoredBytes = string | Buffer;

/** A blob as it is read. */
export interface StoredBlob {
  channel: string;
  version: string;
  type: string;
  blob: StoredBytes | null;
}

/** A write as it is read. */
export interface StoredWrite {
  taskId: string;
  idx: number;
  channel: string;
  type: string | null;
  blob: StoredBytes;
  taskPath: string;
}

/** What of a checkpoint lies in other tables. `pending_sends` are the parent's writes to `__pregel_tasks`. */
export const TUPLE_PARTS = ['blobs', 'pending_writes', 'pending_sends'] as const;
export type TuplePart = (typeof TUPLE_PARTS)[number];

/** A checkpoint as it is read, with those parts that were asked for. */
export interface CheckpointTuple {
  key: CheckpointKey;
  parentCheckpointId: string | null;
  checkpoint: string;
  metadata: string;
  blobs?: StoredBlob[];
  pendingWrites?: StoredWrite[];
  pendingSends?: StoredWrite[];
}

/** Which checkpoints to list; null means any. Ids are compared byte by byte. */
export interface CheckpointFilter {
  threads: StoredThreadId | TenantThreads;
  checkpointNs: string | null;
  checkpointId: string | null;
  /** Exclusive. */
  beforeCheckpointId: string | null;
  /** The JSON text that `metadata` must contain, as jsonb's `@>` has it. */
  metadata: string | null;
  /** Continue after this checkpoint, in the order of the list. */
  after: CheckpointKey | null;
}

/** A part of a list, newest first. `next` is where to go on when rows were left out. */
export interface CheckpointPage {
  tuples: CheckpointTuple[];
  next: CheckpointKey | null;
}

/** A write of a channel's history. */
export interface HistoryWrite extends StoredWrite {
  checkpointId: string;
  /** Base64. */
  blob: string;
}

/**
 * What a delta channel is rebuilt from: the nearest stored value before a checkpoint, as bytes or as the JSON text of a
 * value inside a checkpoint, null when there is none; and the writes since then, oldest first.
 */
export interface ChannelHistory {
  seed: { type: string; base64: string | null } | { value: string } | null;
  writes: HistoryWrite[];
}

/** Delta channels of a request, and of a checkpoint's metadata. A graph has tens; each is looked up at each ancestor. */
export const MAX_DELTA_CHANNELS = 256;

/** What the type of a value begins with that is stored as its difference to another one. No client may store such a type. */
export const DELTA_TYPE = 'delta+';

/** Postgres refuses index entries over some 2,700 bytes; this leaves room for their headers. */
export const MAX_KEY_BYTES = 2600;

/** Whether no index holds a key of these parts. Of a long part only the length is looked at, since rows share it. */
export function isKeyTooLong(...parts: string[]): boolean {
  let bytes = 0;
  for (const part of parts) bytes += part.length > MAX_KEY_BYTES ? part.length : Buffer.byteLength(part);
  return bytes > MAX_KEY_BYTES;
}
