/** JSON of the service; bytes are standard Base64 with padding. */
export interface WireBlob {
  channel: string;
  version: string;
  type: string;
  blob: string | null;
}

export interface WireWrite {
  task_id: string;
  idx: number;
  channel: string;
  type: string | null;
  blob: string;
  task_path?: string;
}

export interface WireTuple {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: Record<string, unknown> & { v: number };
  metadata: Record<string, unknown>;
  blobs?: WireBlob[];
  pending_writes?: WireWrite[];
  /** What the parent wrote to `__pregel_tasks`. */
  pending_sends?: WireWrite[];
}

export interface WireHistory {
  writes: (Omit<WireWrite, 'channel'> & { checkpoint_id: string })[];
  seed?: { type: string; blob: string | null } | { value: unknown };
}

/** Beside the checkpoint; older checkpoints (`v` < 4) need the sends of their parent. */
export const TUPLE_PARTS = ['blobs', 'pending_writes', 'pending_sends'] as const;
/** The type of a blob that stands for a channel without a value. */
export const EMPTY = 'empty';
/** The header that says where a list goes on. */
export const NEXT_CURSOR = 'x-next-cursor';
