import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Database, type Query, type Transaction } from '../../database/database.js';
import { faultOf, isLockTimeout, sqlStateOf } from '../../database/faults.js';
import { KeyTooLongError } from '../../errors/errors.js';
import { deltaChains } from './delta-chain.js';
import { isPlace, logOfPlace } from './log-records.js';
import { deleteUnusedLogs } from './place-rows.js';
import { anyOf, channelVersions, type Tables, isOfTenant, tablesOf } from './tables.js';
import { callersThreadId, type StoredThreadId, type TenantThreads } from '../domain/tenant.js';
import { LOCK_SOURCE_AND_TARGET, LOCK_THREADS, MAX_LOCKED_THREADS, TRY_LOCK_THREADS } from './thread-lock.js';

const INDEX_ROW_TOO_LARGE = '54000';
/** Threads that a look for those of a run gives at most, so that this process never holds more ids. */
const MAX_FOUND_THREADS = 4096;

/** SQL: the blob of a row that is copied; a place names the copy of its log. */
const COPIED_BLOB = `case when l.copy is null then m.blob
                          else pg_catalog.overlay(m.blob, pg_catalog.int8send(l.copy), 2, 8) end`;

/** How often the threads of a run are looked for, at most. */
const MAX_PASSES = 8;

/** What is done to a thread that is locked. */
type Deed = (query: Query, threadIds: StoredThreadId[]) => Promise<void>;

/** Others use a row of a thread, so that the transaction did nothing. */
class InUseError extends Error {}

/**
 * What is done to whole threads. Each method may be repeated; rows stay in Postgres, so a thread may have any length. A thread
 * is changed in one transaction, which first takes its lock: see thread-lock.ts. Of many threads some share a transaction.
 * Rows are locked in the order checkpoints, blobs, as `CheckpointRepository.upsertCheckpoint` locks them.
 */
@Injectable()
export class ThreadRepository {
  private readonly tables: Tables;

  constructor(
    dataSource: DataSource,
    private readonly database: Database,
  ) {
    this.tables = tablesOf(dataSource);
  }

  /** Removes every row of the threads, in all namespaces. */
  async deleteThreads(threadIds: StoredThreadId[]): Promise<void> {
    const { checkpoints, blobs, writes, deltas } = this.tables;
    await this.forEach(threadIds, async (query, ids) => {
      await query(
        // The last delete runs first: checkpoints before blobs.
        `with deleted_blobs as (delete from ${blobs} where thread_id = any($1)),
              deleted_writes as (delete from ${writes} where thread_id = any($1)),
              deleted_deltas as (delete from ${deltas} where thread_id = any($1))
         delete from ${checkpoints} where thread_id = any($1)`,
        [ids],
      );
    });
  }

  /**
   * Copies every row, ids kept. What the target has already is kept. Logs are copied under other numbers, since a log of the target
   * may have gone on from an earlier copy; those that only rows name which the target has already are left out.
   *
   * @throws KeyTooLongError
   */
  async copyThread(sourceThreadId: StoredThreadId, targetThreadId: StoredThreadId): Promise<void> {
    const { checkpoints, blobs, writes, deltas } = this.tables;
    const ids = { source: callersThreadId(sourceThreadId), target: callersThreadId(targetThreadId) };
    const copied = this.database.transaction(targetThreadId, async (query, record) => {
      await query(LOCK_SOURCE_AND_TARGET, [sourceThreadId, targetThreadId]);
      await query(
        `with copied_checkpoints as (
           insert into ${checkpoints}
             (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
           select $2, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
                  -- As LangGraph's own server has it. The column type is the mark of jsonb-text.ts: a text with it is another one.
                  case when metadata ->> 'thread_id' = $3 and (type is null or pg_catalog.strpos($3 || $4, type) = 0)
                       then pg_catalog.jsonb_set(metadata, '{thread_id}', pg_catalog.to_jsonb($4::text))
                       else metadata
                   end
             from ${checkpoints}
            where thread_id = $1
            order by checkpoint_ns, checkpoint_id
               on conflict do nothing
         ),
         missing_blobs as materialized (
           select b.*, case when ${isPlace('b.type')} then ${logOfPlace('b.blob')} end as log
             from ${blobs} b
            where b.thread_id = $1
              and not exists (select from ${blobs} t
                               where t.thread_id = $2 and t.checkpoint_ns = b.checkpoint_ns and t.channel = b.channel
                                 and t.version = b.version)
         ),
         missing_writes as materialized (
           select w.*, case when ${isPlace('w.type')} then ${logOfPlace('w.blob')} end as log
             from ${writes} w
            where w.thread_id = $1
              and not exists (select from ${writes} t
                               where t.thread_id = $2 and t.checkpoint_ns = w.checkpoint_ns
                                 and t.checkpoint_id = w.checkpoint_id and t.task_id = w.task_id and t.idx = w.idx)
         ),
         copied_logs as materialized (
           select log, pg_catalog.hashtextextended(log::text, (pg_catalog.random() * 9007199254740991)::bigint) as copy
             from (select log from missing_blobs where log is not null
                    union
                   select log from missing_writes where log is not null) as named
         ),
         copied_deltas as (
           insert into ${deltas} (thread_id, log, at, delta)
           select $2, l.copy, d.at, d.delta
             from copied_logs l
             join ${deltas} d on d.thread_id = $1 and d.log = l.log
           returning 1
         ),
         copied_blobs as (
           insert into ${blobs} (thread_id, checkpoint_ns, channel, version, type, blob)
           select $2, checkpoint_ns, channel, version, type, ${COPIED_BLOB}
             from missing_blobs as m
             left join copied_logs l on l.log = m.log
            where (select pg_catalog.count(*) from copied_deltas) >= 0
               on conflict do nothing
         )
         insert into ${writes}
           (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
         select $2, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, ${COPIED_BLOB}, task_path
           from missing_writes as m
           left join copied_logs l on l.log = m.log
          where (select pg_catalog.count(*) from copied_deltas) >= 0
             on conflict do nothing`,
        [sourceThreadId, targetThreadId, ids.source, ids.target],
      );
      await record();
    });
    await copied.catch((error: unknown) => {
      throw sqlStateOf(error) === INDEX_ROW_TOO_LARGE ? new KeyTooLongError() : error;
    });
  }

  /**
   * Leaves of each namespace the newest checkpoint (the greatest id, byte by byte) with its writes and blobs, but none of a subgraph's
   * call that is over, as LangGraph's own savers have it; beside it the ancestors, with their writes, that its delta channels are rebuilt from, and where it predates version 4 the parent that
   * holds its pending sends. A kept checkpoint whose parent went has none afterwards.
   */
  async keepLatest(threadIds: StoredThreadId[]): Promise<void> {
    const { checkpoints, writes } = this.tables;
    await this.forEach(threadIds, async (query, ids) => {
      await query(
        `with head as (
           select distinct on (thread_id, checkpoint_ns) thread_id, checkpoint_ns, checkpoint_id
             from ${checkpoints}
            where thread_id = any($1)
            order by thread_id, checkpoint_ns, checkpoint_id collate "C" desc
         ),
         chain as (${deltaChains(this.tables)}),
         needed as materialized (
           select thread_id, checkpoint_ns, checkpoint_id from chain
            union
           select c.thread_id, c.checkpoint_ns, c.parent_checkpoint_id
             from head
             join ${checkpoints} c using (thread_id, checkpoint_ns, checkpoint_id)
            where case when pg_catalog.jsonb_typeof(c.checkpoint -> 'v') = 'number' then (c.checkpoint -> 'v')::numeric < 4::numeric end
              and exists (select 1
                            from ${writes} w
                           where w.thread_id = c.thread_id and w.checkpoint_ns = c.checkpoint_ns
                             and w.checkpoint_id = c.parent_checkpoint_id and w.channel = '__pregel_tasks')
         ),
         -- Calls of subgraphs that are over: the checkpoint of the root graph that each one was begun from is stored, and goes. A
         -- subgraph that keeps its state has no task id behind a colon.
         finished as materialized (
           select h.thread_id, h.checkpoint_ns
             from head h
             join ${checkpoints} c using (thread_id, checkpoint_ns, checkpoint_id)
            cross join lateral (select r.checkpoint_id
                                  from ${checkpoints} r
                                 where r.thread_id = h.thread_id and r.checkpoint_ns = ''
                                   and r.checkpoint_id = c.metadata -> 'parents' ->> ''
                                 limit 1) as root
            where pg_catalog.strpos(h.checkpoint_ns, ':') > 0
              and not exists (select from needed n
                               where n.thread_id = h.thread_id and n.checkpoint_ns = '' and n.checkpoint_id = root.checkpoint_id)
         ),
         kept as materialized (
           select n.*
             from needed n
            where not exists (select from finished f
                               where f.thread_id = n.thread_id and f.checkpoint_ns = n.checkpoint_ns)
         ),
         deleted as (
           delete from ${checkpoints} c
            where c.thread_id = any($1)
              and not exists (select 1
                                from kept k
                               where k.thread_id = c.thread_id and k.checkpoint_ns = c.checkpoint_ns
                                 and k.checkpoint_id = c.checkpoint_id)
           returning c.thread_id, c.checkpoint_ns, c.checkpoint_id
         ),
         -- By the checkpoints that went: writes may be stored before their checkpoint is.
         deleted_writes as (
           delete from ${writes} w
            using deleted d
            where w.thread_id = d.thread_id and w.checkpoint_ns = d.checkpoint_ns and w.checkpoint_id = d.checkpoint_id
         )
         -- Of each key that is kept or a parent's, whether it is kept: sorted, not joined, as chains may be long and are
         -- taken to be short, and then all pairs of them would be compared.
         update ${checkpoints} c
            set parent_checkpoint_id = null
           from (select key.thread_id, key.checkpoint_ns, key.child,
                        pg_catalog.bool_or(key.child is null)
                          over (partition by key.thread_id, key.checkpoint_ns, key.checkpoint_id) as is_kept
                   from (select thread_id, checkpoint_ns, checkpoint_id, null as child from kept
                          union all
                         select k.thread_id, k.checkpoint_ns, child.parent_checkpoint_id, k.checkpoint_id
                           from kept k
                          cross join lateral (select *
                                                from ${checkpoints} found
                                               where found.thread_id = k.thread_id and found.checkpoint_ns = k.checkpoint_ns
                                                 and found.checkpoint_id = k.checkpoint_id
                                               limit 1) as child
                          where child.parent_checkpoint_id is not null) as key) as parent
          where c.thread_id = parent.thread_id and c.checkpoint_ns = parent.checkpoint_ns
            and c.checkpoint_id = parent.child and not parent.is_kept`,
        [ids],
      );
      await this.deleteOrphans(query, ids);
    });
  }

  /**
   * Removes those of the checkpoints in the threads whose `metadata.run_id` is listed, their writes, and the blobs that none
   * refers to any more.
   */
  async deleteForRuns(runIds: string[], threads: TenantThreads): Promise<void> {
    const { checkpoints, writes } = this.tables;
    const values: unknown[] = [runIds, ''];
    const isIncluded = isOfTenant(threads, (value) => `$${values.push(value)}`);
    // Two conditions on the run: the first is what checkpoints_run_id_idx holds, the second is what is meant.
    const find = `
      select distinct thread_id
        from ${checkpoints}
       where pg_catalog.hashtextextended(metadata ->> 'run_id', 0)
               = any(array(select pg_catalog.hashtextextended(id, 0) from pg_catalog.unnest($1::text[]) as id))
         and metadata ->> 'run_id' = any($1)
         and ${isIncluded} and thread_id > $2
       order by thread_id
       limit ${MAX_FOUND_THREADS}`;
    const remove: Deed = async (query, ids) => {
      await query(
        // Without the hash: by its index each batch would read what the run has in all threads.
        `with deleted as (
           delete from ${checkpoints}
            where thread_id = ${anyOf('$2')} and metadata ->> 'run_id' = any($1)
           returning thread_id, checkpoint_ns, checkpoint_id
         )
         delete from ${writes} w
          using deleted d
          where w.thread_id = d.thread_id and w.checkpoint_ns = d.checkpoint_ns and w.checkpoint_id = d.checkpoint_id`,
        [runIds, ids],
      );
      await this.deleteOrphans(query, ids);
    };
    const touched = (ids: StoredThreadId[]) => ({ thread_ids: ids.map(callersThreadId) });
    const left = new Set<StoredThreadId>();
    let isNothing = true;
    let found: StoredThreadId[] = [];
    let pass = 1;
    await this.database.transactions('', async (transaction) => {
      await inBatches(transaction, left, remove, touched);
      // One thread after the other, and then again: while the first was looked at, it may have been copied to one that was not
      // there yet. A run that goes on storing has no end of this.
      while (pass <= MAX_PASSES) {
        values[1] = found.at(-1) ?? '';
        const rows = await transaction((query) => query<{ thread_id: StoredThreadId }>(find, values));
        if (rows.length === 0 && found.length === 0) break;
        if (rows.length === 0) pass += 1;
        else isNothing = false;
        found = rows.map((row) => row.thread_id);
        for (const id of found) left.add(id);
        await inBatches(transaction, left, remove, touched);
      }
      if (isNothing) await transaction((_, record) => record());
    });
  }

  /** Does it to each thread, in one turn. */
  private async forEach(threadIds: StoredThreadId[], deed: Deed): Promise<void> {
    const left = new Set(threadIds.toSorted());
    const detailOf = (ids: StoredThreadId[]) =>
      threadIds.length === 1 ? undefined : { thread_ids: ids.map(callersThreadId) };
    await this.database.transactions(threadIds[0] ?? '', (transaction) =>
      inBatches(transaction, left, deed, detailOf),
    );
  }

  /** In threads that are locked: the blobs that no checkpoint names any more, and then the logs that no row does. */
  private async deleteOrphans(query: Query, threadIds: StoredThreadId[]): Promise<void> {
    await this.deleteOrphanedBlobs(query, threadIds);
    await query(deleteUnusedLogs(this.tables), [threadIds]);
  }

  /**
   * In threads that are locked. The first of the two statements is there for instances of a release without locks on threads: a
   * put of theirs locks a blob which is there already, so that the second sees the put's checkpoint; puts that come later wait
   * for the locks of the first, and then store the blob anew.
   */
  private async deleteOrphanedBlobs(query: Query, threadIds: StoredThreadId[]): Promise<void> {
    const { checkpoints, blobs } = this.tables;
    // Grouped, not joined: its time is linear whatever the planner believes of the tables, and it spills to disk.
    const orphaned = `
      select thread_id, checkpoint_ns, channel, version
        from (select c.thread_id, c.checkpoint_ns, v.key collate "C" as channel, v.value collate "C" as version, true as referenced
                from ${checkpoints} c
               cross join pg_catalog.jsonb_each_text(
                       ${channelVersions('c.checkpoint')}) as v
               where c.thread_id = ${anyOf('$1')}
               union all
              select thread_id, checkpoint_ns, channel collate "C", version collate "C", false
                from ${blobs}
               where thread_id = ${anyOf('$1')}) as keys
       group by thread_id, checkpoint_ns, channel, version
      having not pg_catalog.bool_or(referenced)`;
    const [locked] = await query<{ count: string }>(
      `select pg_catalog.count(*)
         from (select 1
                 from ${blobs} b
                 join (${orphaned}) as o using (thread_id, checkpoint_ns, channel, version)
                order by b.thread_id, b.checkpoint_ns, b.channel, b.version
                  for update of b) as locked`,
      [threadIds],
    );
    if (locked?.count === '0') return;
    await query(
      `delete from ${blobs} b
        using (${orphaned}) as o
        where b.thread_id = o.thread_id and b.checkpoint_ns = o.checkpoint_ns
          and b.channel = o.channel and b.version = o.version`,
      [threadIds],
    );
  }
}

/**
 * Does it to the threads that are left, some a transaction. Those that others use are done last, one by one: a transaction
 * waits for no thread while it keeps others from theirs. What is done is no longer left, also when the rest fails.
 */
async function inBatches(
  transaction: Transaction,
  left: Set<StoredThreadId>,
  deed: Deed,
  detailOf: (done: StoredThreadId[]) => object | undefined,
): Promise<void> {
  const isDone = (ids: StoredThreadId[]) => {
    for (const id of ids) left.delete(id);
  };
  const ids = [...left];
  for (let at = 0; at < ids.length && ids.length > 1; at += MAX_LOCKED_THREADS) {
    const batch = ids.slice(at, at + MAX_LOCKED_THREADS);
    isDone(
      await transaction(async (query, record) => {
        const rows = await query<{ id: StoredThreadId; is_held: boolean }>(TRY_LOCK_THREADS, [batch]);
        const held = rows.filter((row) => row.is_held).map((row) => row.id);
        if (held.length === 0) return [];
        await deed(query, held).catch(inUse);
        await record(detailOf(held));
        return held;
      }).catch(nothingIfInUse),
    );
  }
  for (const id of [...left]) {
    await transaction(async (query, record) => {
      await query(LOCK_THREADS, [[id]]);
      await deed(query, [id]);
      await record(detailOf([id]));
    });
    isDone([id]);
  }
}

function inUse(error: unknown): never {
  throw isLockTimeout(faultOf(error)) ? new InUseError() : error;
}

function nothingIfInUse(error: unknown): StoredThreadId[] {
  if (error instanceof InUseError) return [];
  throw error;
}
