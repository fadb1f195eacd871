/**
 * Advisory locks on threads, which make what is done to a thread serial. A store holds its thread's lock shared. What deletes,
 * moves or copies to whole threads holds it exclusively, and takes it in a statement of its own: the statements that follow then
 * see every store that was before, and no store comes in between. A copy holds the lock of its source shared. All locks end with
 * their transaction.
 */

/** How long what is done to whole threads waits for a lock, in milliseconds: for so long it may keep others from a thread in vain. */
const LOCK_TIMEOUT_MS = 1000;
/** Threads of one transaction: each needs a place in the server's lock table, which has 64 for each connection by default. */
export const MAX_LOCKED_THREADS = 64;

/** Any constant, the same in every release. */
const SEED = 5004;

/** SQL: the 64-bit key of a thread's lock. Two threads with one key wait for each other, and nothing else. */
function keyOf(threadId: string): string {
  return `pg_catalog.hashtextextended(${threadId}, ${SEED})`;
}

/** SQL: bounds the waits for locks from here to the end of the transaction, also in the rest of this statement. */
function boundedWaits(milliseconds: number): string {
  return `pg_catalog.set_config('lock_timeout', '${milliseconds}', true)`;
}

/** SQL: true, once the transaction holds the thread's lock shared. A `case`, since that alone is evaluated in its order. */
export function sharedLock(threadId: string, timeoutMs: number): string {
  return `(select (case when ${boundedWaits(timeoutMs)} is not null
                 then pg_catalog.pg_advisory_xact_lock_shared(${keyOf(threadId)}) end) is not null)`;
}

/** SQL: a query of the threads, and whether the transaction now holds each one's lock shared. It never waits. */
export function trySharedLocks(threadIds: string, timeoutMs: number): string {
  return `select id, pg_catalog.pg_try_advisory_xact_lock_shared(${keyOf('id')}) as is_held
            from pg_catalog.unnest(${threadIds}) as id
           where (select ${boundedWaits(timeoutMs)}) is not null`;
}

/** A statement that takes the locks of the threads `$1` exclusively, in the order of their keys. It waits. */
export const LOCK_THREADS = `
  select pg_catalog.pg_advisory_xact_lock(key)
    from (select distinct ${keyOf('id')} as key
            from pg_catalog.unnest($1::text[]) as id
           where (select ${boundedWaits(LOCK_TIMEOUT_MS)}) is not null
           order by key) as keys`;

/** A statement that takes the lock of the thread `$1` shared and that of `$2` exclusively, in the order of their keys. It waits. */
export const LOCK_SOURCE_AND_TARGET = `
  select case when is_source then pg_catalog.pg_advisory_xact_lock_shared(key) else pg_catalog.pg_advisory_xact_lock(key) end
    from (select is_source, ${keyOf('id')} as key
            from (values (true, $1::text), (false, $2::text)) as threads (is_source, id)
           where (select ${boundedWaits(LOCK_TIMEOUT_MS)}) is not null
           order by key, is_source) as keys`;

/** A statement that takes the locks of the threads `$1` exclusively, of those whose lock is free. It never waits. */
export const TRY_LOCK_THREADS = `
  select id, pg_catalog.pg_try_advisory_xact_lock(${keyOf('id')}) as is_held
    from pg_catalog.unnest($1::text[]) as id
   where (select ${boundedWaits(LOCK_TIMEOUT_MS)}) is not null`;
