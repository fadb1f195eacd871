import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from 'pg';
import { sqlStateOf } from '../../database/faults.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { LOCK_THREADS } from './thread-lock.js';

/** Lock timeout, deadlock: with others, so that another attempt may succeed. */
const PASSING = new Set(['55P03', '40P01']);
/** Each waits for a second at most. */
const MAX_ATTEMPTS = 60;

/**
 * Does it in a transaction that holds the locks of the threads. Waits for whoever uses them, with short pauses in which others have
 * them. What it throws ends the transaction without a trace.
 */
export async function withThreads<Result>(
  client: Client,
  threadIds: StoredThreadId[],
  work: () => Promise<Result>,
): Promise<Result> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.query('begin isolation level read committed');
      await client.query(LOCK_THREADS, [threadIds]);
      const result = await work();
      await client.query('commit');
      return result;
    } catch (error) {
      // Where the connection is lost, that is what there is to tell.
      await client.query('rollback').catch(() => undefined);
      if (!PASSING.has(sqlStateOf(error) ?? '') || attempt === MAX_ATTEMPTS) throw error;
      await delay(Math.random() * 100 * Math.min(attempt, 10));
    }
  }
}
