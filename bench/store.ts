/** What an agent does with a store. `n` is the number of the step, see `step` in payload.ts. */
export interface Store {
  put(threadId: string, n: number): Promise<void>;
  putWrites(threadId: string, n: number, task: number): Promise<void>;
  /** Reads the latest checkpoint, which is number `n`. With `isChecked` @throws Error when the answer is not what was stored */
  getTuple(threadId: string, n: number, isChecked: boolean): Promise<void>;
  /** Reads a page of the thread whose latest checkpoint is number `n`. */
  list(threadId: string, n: number, isChecked: boolean): Promise<void>;
  deleteThread(threadId: string): Promise<void>;
}

export type Operation = 'put' | 'put-writes' | 'get-tuple' | 'list' | 'delete-thread';

/** A request for a page of `list`. */
export interface Page {
  limit: number;
  /** Where it begins: below the checkpoint with this number; null: at the newest. */
  before: number | null;
  withNamespace: boolean;
  withFilter: boolean;
}
