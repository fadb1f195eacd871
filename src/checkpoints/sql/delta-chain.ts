import { MAX_DELTA_CHANNELS } from '../domain/checkpoint.js';
import type { Tables } from './tables.js';

/**
 * How delta channels are followed along the parents of a checkpoint. A chain carries ids, and numbers of channels where it
 * has to; never their names, which may be as long as a request: Postgres would keep them for each ancestor.
 */

/** SQL: a checkpoint by its key, or no row. `limit` keeps it a look-up: without statistics Postgres would read the thread. */
export function checkpointBy(
  tables: Tables,
  columns: string,
  threadId: string,
  ns: string,
  id: string,
): string {
  return `select ${columns}
            from ${tables.checkpoints} as found
           where found.thread_id = ${threadId} and found.checkpoint_ns = ${ns} and found.checkpoint_id = ${id}
           limit 1`;
}

/** The columns that `hasNoValue` looks into; selected with `offset 0`, so that a document is decompressed once, not per channel. */
export const STORED_VALUES = `found.checkpoint -> 'channel_values' as channel_values,
                 found.checkpoint -> 'channel_versions' as channel_versions`;

/** SQL: the checkpoint with these STORED_VALUES stores no value of the channel, neither as a blob nor inline. */
export function hasNoValue(
  tables: Tables,
  stored: string,
  threadId: string,
  ns: string,
  channel: string,
): string {
  // Not as a join, which may read all blobs of the thread: a look-up.
  return `(coalesce(pg_catalog.jsonb_typeof(${stored}.channel_values -> ${channel}), 'null') = 'null'
           and (select b.type <> 'empty'
                  from ${tables.blobs} b
                 where b.thread_id = ${threadId} and b.checkpoint_ns = ${ns} and b.channel = ${channel}
                   and b.version = ${stored}.channel_versions ->> ${channel}
                 limit 1) is not true)`;
}

/**
 * SQL: the checkpoints from each `head` along its parents, itself included, up to the one that stores the last value of its
 * delta channels. A head whose metadata names more than MAX_DELTA_CHANNELS keeps all: nothing that might be needed is lost.
 * Each chain is a query of its own, which holds its last ancestor alone; it has no more ancestors than its namespace has
 * checkpoints, so that a circle of parents ends.
 */
export function deltaChains(tables: Tables): string {
  const open = (channels: string, stored: string) => `array(
                    select wanted.number
                      from ${channels} as wanted (number)
                     where ${hasNoValue(tables, stored, 'head.thread_id', 'head.checkpoint_ns', 'named.channels[wanted.number]')})`;
  const at = (id: string) =>
    `${checkpointBy(tables, `found.checkpoint_id, found.parent_checkpoint_id, ${STORED_VALUES}`, 'head.thread_id', 'head.checkpoint_ns', id)}
                 offset 0`;
  return `
           select head.thread_id, head.checkpoint_ns, chain.checkpoint_id
             from head
            cross join lateral (
              -- A number more than there may be stands for too many; none is looked for then, and none is found.
              select case when pg_catalog.cardinality(keys.names) > ${MAX_DELTA_CHANNELS} then '{}' else keys.names end as channels,
                     case when pg_catalog.cardinality(keys.names) > ${MAX_DELTA_CHANNELS} then 1
                          else pg_catalog.cardinality(keys.names) end as count
                from (select array(
                        select pg_catalog.jsonb_object_keys(
                                 case pg_catalog.jsonb_typeof(found.metadata -> 'counters_since_delta_snapshot')
                                   when 'object' then found.metadata -> 'counters_since_delta_snapshot'
                                 end)
                         limit ${MAX_DELTA_CHANNELS + 1}) as names
                        from ${tables.checkpoints} as found
                       where found.thread_id = head.thread_id and found.checkpoint_ns = head.checkpoint_ns
                         and found.checkpoint_id = head.checkpoint_id) as keys
              offset 0) as named
            cross join lateral (
              with recursive ancestor as (
                select 1 as n, found.checkpoint_id, found.parent_checkpoint_id,
                       ${open('pg_catalog.generate_series(1, named.count)', 'found')} as open
                  from (${at('head.checkpoint_id')}) as found
                 union all
                select ancestor.n + 1, found.checkpoint_id, found.parent_checkpoint_id,
                       ${open('pg_catalog.unnest(ancestor.open)', 'found')}
                  from ancestor
                 cross join lateral (${at('ancestor.parent_checkpoint_id')}) as found
                 where pg_catalog.cardinality(ancestor.open) > 0
                   and ancestor.n < (select pg_catalog.count(*)
                                       from ${tables.checkpoints} c
                                      where c.thread_id = head.thread_id and c.checkpoint_ns = head.checkpoint_ns)
              )
              select ancestor.checkpoint_id from ancestor) as chain`;
}
