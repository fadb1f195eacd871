import type { Client } from 'pg';
import type { StoredThreadId } from '../domain/tenant.js';
import type { Tables } from './tables.js';

/** Between 1582-10-15, from which on the ids count, and 1970. */
const EPOCH_MS = 12_219_292_800_000;

/** When the newest checkpoint of a thread came, in ms, by LangGraph's ids, which are UUIDs of version 6; null for others. */
export async function newestTimeOf(
  client: Client,
  { checkpoints }: Tables,
  threadId: StoredThreadId,
): Promise<number | null> {
  const { rows } = await client.query<{ id: string }>(
    `select checkpoint_id as id
       from ${checkpoints}
      where thread_id = $1
      order by checkpoint_id collate "C" desc, checkpoint_ns collate "C" desc
      limit 1`,
    [threadId],
  );
  const [, high, middle, low] = /^([0-9a-f]{8})-([0-9a-f]{4})-6([0-9a-f]{3})-/.exec(rows[0]?.id ?? '') ?? [];
  return high === undefined ? null : Number(BigInt(`0x${high}${middle}${low}`) / 10_000n) - EPOCH_MS;
}
