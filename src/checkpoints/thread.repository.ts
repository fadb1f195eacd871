import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Database, type Query } from '../database/database.js';
import { sqlStateOf } from '../database/faults.js';
import { KeyTooLongError } from './checkpoint.errors.js';
import { type Tables, isOfTenant, tablesOf } from './tables.js';
import type { StoredThreadId, TenantThreads } from './tenant.js';

/** Any constant: the first half of the lock that keeps two clean-ups of one thread apart. */
const CLEAN_UP_LOCK = 5004;
const INDEX_ROW_TOO_LARGE = '54000';

/**
 * What is done to whole threads. Each method is atomic and may be repeated; rows stay in Postgres, so a thread may have any
 * length. Locks are taken in the order checkpoints, blobs, as `CheckpointRepository.upsertCheckpoint` takes them.
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
    const { checkpoints, blobs, writes } = this.tables;
    await this.database.query(
      threadIds[0] ?? '',
      // The last delete runs first: checkpoints before blobs.
      `with deleted_blobs as (delete from ${blobs} where thread_id = any($1)),
            deleted_writes as (delete from ${writes} where thread_id = any($1))
       delete from ${checkpoints} where thread_id = any($1)`,
      [threadIds],
    );
  }

  /** Copies every row, ids kept. What the target has already is kept. @throws KeyTooLongError */
  async copyThread(sourceThreadId: StoredThreadId, targetThreadId: StoredThreadId): Promise<void> {
    const { checkpoints, blobs, writes } = this.tables;
    // Ordered by key, so that two copies to one thread lock the same rows in the same order.
    const copied = this.database.query(
      targetThreadId,
      `with copied_checkpoints as (
         insert into ${checkpoints}
           (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
         select $2, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata
           from ${checkpoints}
          where thread_id = $1
          order by checkpoint_ns, checkpoint_id
             on conflict do nothing
       ),
       copied_blobs as (
         insert into ${blobs} (thread_id, checkpoint_ns, channel, version, type, blob)
         select $2, checkpoint_ns, channel, version, type, blob
           from ${blobs}
          where thread_id = $1
             on conflict do nothing
       )
       insert into ${writes}
         (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
       select $2, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path
         from ${writes}
        where thread_id = $1
           on conflict do nothing`,
      [sourceThreadId, targetThreadId],
    );
    await copied.catch((error: unknown) => {
      throw sqlStateOf(error) === INDEX_ROW_TOO_LARGE ? new KeyTooLongError() : error;
    });
  }

  /**
   * Leaves of each namespace the newest checkpoint (the greatest id, byte by byte) with its writes and blobs; beside it the
   * ancestors, with their writes, that its delta channels are rebuilt from, and where it predates version 4 the parent that
   * holds its pending sends. A kept checkpoint whose parent went has none afterwards.
   */
  async keepLatest(threadIds: StoredThreadId[]): Promise<void> {
    const { checkpoints, blobs, writes } = this.tables;
    await this.database.transaction(threadIds[0] ?? '', async (query) => {
      await this.lock(query, threadIds);
      await query(
        `with recursive head as (
           select distinct on (thread_id, checkpoint_ns) thread_id, checkpoint_ns, checkpoint_id
             from ${checkpoints}
            where thread_id = any($1)
            order by thread_id, checkpoint_ns, checkpoint_id collate "C" desc
         ),
         -- From each head along the parents, as long as a delta channel has not met a stored value; union, not union all,
         -- so that a circle of parents ends.
         chain as (
           select c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id,
                  ${openChannels(
                    `array(select jsonb_object_keys(
                             case jsonb_typeof(c.metadata -> 'counters_since_delta_snapshot')
                               when 'object' then c.metadata -> 'counters_since_delta_snapshot'
                             end))`,
                    blobs,
                  )} as open
             from head
             join ${checkpoints} c using (thread_id, checkpoint_ns, checkpoint_id)
            union
           select c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id,
                  ${openChannels('chain.open', blobs)}
             from chain
            cross join lateral (select *
                                  from ${checkpoints} p
                                 where p.thread_id = chain.thread_id and p.checkpoint_ns = chain.checkpoint_ns
                                   and p.checkpoint_id = chain.parent_checkpoint_id
                                 limit 1) as c
            where cardinality(chain.open) > 0
         ),
         kept as materialized (
           select thread_id, checkpoint_ns, checkpoint_id from chain
            union
           select c.thread_id, c.checkpoint_ns, c.parent_checkpoint_id
             from head
             join ${checkpoints} c using (thread_id, checkpoint_ns, checkpoint_id)
            where case when jsonb_typeof(c.checkpoint -> 'v') = 'number' then (c.checkpoint -> 'v')::numeric < 4 end
              and exists (select 1
                            from ${writes} w
                           where w.thread_id = c.thread_id and w.checkpoint_ns = c.checkpoint_ns
                             and w.checkpoint_id = c.parent_checkpoint_id and w.channel = '__pregel_tasks')
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
         update ${checkpoints} c
            set parent_checkpoint_id = null
           from kept k
          where c.thread_id = k.thread_id and c.checkpoint_ns = k.checkpoint_ns and c.checkpoint_id = k.checkpoint_id
            and c.parent_checkpoint_id is not null
            and not exists (select 1
                              from kept p
                             where p.thread_id = c.thread_id and p.checkpoint_ns = c.checkpoint_ns
                               and p.checkpoint_id = c.parent_checkpoint_id)`,
        [threadIds],
      );
      await this.deleteOrphanedBlobs(query, threadIds);
    });
  }

  /**
   * Removes those of the checkpoints in the threads whose `metadata.run_id` is listed, their writes, and the blobs that none
   * refers to any more.
   */
  async deleteForRuns(runIds: string[], threads: TenantThreads): Promise<void> {
    const { checkpoints, writes } = this.tables;
    const values: unknown[] = [runIds];
    const isIncluded = isOfTenant(threads, (value) => `$${values.push(value)}`);
    await this.database.transaction('', async (query) => {
      const rows = await query<{ thread_id: StoredThreadId }>(
        // Both conditions: the first is what checkpoints_run_id_idx holds, the second is what is meant.
        `with deleted as (
           delete from ${checkpoints}
            where hashtextextended(metadata ->> 'run_id', 0) = any(array(select hashtextextended(unnest($1::text[]), 0)))
              and metadata ->> 'run_id' = any($1)
              and ${isIncluded}
           returning thread_id, checkpoint_ns, checkpoint_id
         ),
         deleted_writes as (
           delete from ${writes} w
            using deleted d
            where w.thread_id = d.thread_id and w.checkpoint_ns = d.checkpoint_ns and w.checkpoint_id = d.checkpoint_id
         )
         select distinct thread_id from deleted order by thread_id`,
        values,
      );
      const threadIds = rows.map((row) => row.thread_id);
      if (threadIds.length === 0) return;
      await this.lock(query, threadIds);
      await this.deleteOrphanedBlobs(query, threadIds);
    });
  }

  /** Until the transaction ends no other clean-up touches the threads; agents go on. */
  private async lock(query: Query, threadIds: StoredThreadId[]): Promise<void> {
    await query(
      `select pg_advisory_xact_lock($1, key)
         from (select distinct hashtext(id) as key from unnest($2::text[]) as id order by key) as keys`,
      [CLEAN_UP_LOCK, threadIds],
    );
  }

  /**
   * Two statements, each on a snapshot of its own. A put that comes upon a blob which is there already locks it: the first
   * statement waits for such puts, so that the second sees their checkpoints; puts that come later wait for its locks, and
   * then store the blob anew.
   */
  private async deleteOrphanedBlobs(query: Query, threadIds: StoredThreadId[]): Promise<void> {
    const { checkpoints, blobs } = this.tables;
    // Grouped, not joined: its time is linear whatever the planner believes of the tables, and it spills to disk.
    const orphaned = `
      select thread_id, checkpoint_ns, channel, version
        from (select c.thread_id, c.checkpoint_ns, v.key collate "C" as channel, v.value collate "C" as version, true as referenced
                from ${checkpoints} c
               cross join jsonb_each_text(
                       case jsonb_typeof(c.checkpoint -> 'channel_versions')
                         when 'object' then c.checkpoint -> 'channel_versions'
                       end) as v
               where c.thread_id = any($1)
               union all
              select thread_id, checkpoint_ns, channel collate "C", version collate "C", false
                from ${blobs}
               where thread_id = any($1)) as keys
       group by thread_id, checkpoint_ns, channel, version
      having not bool_or(referenced)`;
    const [locked] = await query<{ count: string }>(
      `select count(*)
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

/** SQL: those of the channels for which the checkpoint `c` stores no value, neither as a blob nor inline. */
export function openChannels(channels: string, blobs: string): string {
  return `array(
    select wanted.channel
      from unnest(${channels}) as wanted (channel)
     where coalesce(jsonb_typeof(c.checkpoint -> 'channel_values' -> wanted.channel), 'null') = 'null'
       -- Not as a join, which may read all blobs of the thread: a look-up.
       and (select b.type <> 'empty'
              from ${blobs} b
             where b.thread_id = c.thread_id and b.checkpoint_ns = c.checkpoint_ns
               and b.channel = wanted.channel
               and b.version = c.checkpoint -> 'channel_versions' ->> wanted.channel
             limit 1) is not true)`;
}
