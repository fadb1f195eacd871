import { randomUUID } from 'node:crypto';

/** A thread id that no other test has. */
export function aThread(): string {
  return `thread-${randomUUID()}`;
}

export function base64(text: string | Buffer): string {
  return Buffer.from(text).toString('base64');
}

/** The body of a `put`; a test names what matters to it. */
export function aPut(fields: Record<string, unknown> = {}) {
  return {
    thread_id: 'thread-1',
    checkpoint_ns: '',
    checkpoint_id: 'checkpoint-1',
    parent_checkpoint_id: null,
    checkpoint: { v: 4, id: 'checkpoint-1', channel_values: {}, channel_versions: {}, versions_seen: {} },
    metadata: {},
    blobs: [] as unknown[],
    ...fields,
  };
}

/** A write of a `put-writes`. */
export function aWrite(fields: Record<string, unknown> = {}) {
  return {
    task_id: 'task-1',
    idx: 0,
    channel: 'messages',
    type: 'msgpack',
    blob: base64('write'),
    ...fields,
  };
}

/** The body of a `put-writes`. */
export function aPutWrites(fields: Record<string, unknown> = {}) {
  return {
    thread_id: 'thread-1',
    checkpoint_ns: '',
    checkpoint_id: 'checkpoint-1',
    writes: [aWrite()],
    ...fields,
  };
}
