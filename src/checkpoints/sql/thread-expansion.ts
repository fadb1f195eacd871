import type { Client } from 'pg';
import { DELTA_TYPE } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { deleteUnusedLogs, type PlaceRow, restore, type Stored } from './place-rows.js';
import type { Tables } from './tables.js';
import { withThreads } from './thread-turn.js';
import { type PlacedRow, valuesOfThread } from './thread-values.js';

/** Of a transaction, but for a single value. */
const BATCH_BYTES = 8 * 1024 * 1024;
const BATCH_ROWS = 500;

/** Values that now stand where they belong, or one that cannot be made. */
export type Expanded = { values: number; bytes: number } | { row: PlacedRow | null; reason: string };

/**
 * Stores the values of a thread as a whole, as LangGraph's savers have them, and removes the logs that no row names afterwards. Each batch is a
 * transaction of its own, so that it may be interrupted at any point, and begun again.
 */
export async function* expandThread(
  reader: Client,
  writer: Client,
  tables: Tables,
  threadId: StoredThreadId,
): AsyncGenerator<Expanded> {
  let batch: (PlaceRow & Stored)[] = [];
  let bytes = 0;
  const store = async (): Promise<Expanded> => {
    const [rows, size] = [batch, bytes];
    [batch, bytes] = [[], 0];
    // Rows that changed meanwhile are left out: they are found again.
    const values = await withThreads(writer, [threadId], () => restore(writer, tables, threadId, rows));
    return { values, bytes: size };
  };
  for await (const finding of valuesOfThread(reader, tables, threadId)) {
    if (finding.kind === 'fault') yield finding;
    if (finding.kind !== 'value') continue;
    const { row, value } = finding;
    if (batch.length === BATCH_ROWS || (batch.length > 0 && bytes + value.length > BATCH_BYTES))
      yield await store();
    batch.push({ ...row, type: row.type.slice(DELTA_TYPE.length), blob: value });
    bytes += value.length;
  }
  if (batch.length > 0) yield await store();
  await withThreads(writer, [threadId], () => writer.query(deleteUnusedLogs(tables), [[threadId]]));
}
