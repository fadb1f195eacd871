import type { Client } from 'pg';
import { MIN_BYTES } from '../blob-storage/planner.js';
import type { ChannelBlob, StoredBlob } from '../domain/checkpoint.js';
import type { StoredThreadId } from '../domain/tenant.js';
import { bytesOfValue, isPlace } from './log-records.js';
import { channelVersions, type Tables } from './tables.js';

export const PAGE = 100;

/** A checkpoint with what it is the first to have, as far as its parent tells, of values that are stored whole. */
export interface Found {
  ns: string;
  id: string;
  parent: string | null;
  channels: string[];
  versions: string[];
  /** Others of its values are stored as places. */
  hasPlaces: boolean;
  writes: number;
}

export interface ReadBlob extends ChannelBlob {
  blob: Buffer;
  xmin: string;
}

export interface ReadWrite {
  task_id: string;
  idx: number;
  channel: string;
  type: string | null;
  blob: Buffer;
  xmin: string;
}

/** Reads the values of threads that are stored whole, in the order in which they came. */
export class WholeValues {
  constructor(
    private readonly client: Client,
    private readonly tables: Tables,
  ) {}

  /** In the order of checkpoints_thread_order_idx. Each blob is looked up: a join might read all blobs of the thread, for each. */
  async pageAfter(threadId: StoredThreadId, last: Found | undefined): Promise<Found[]> {
    const { checkpoints, blobs, writes } = this.tables;
    const isWhole = (row: string) =>
      `not ${isPlace(`${row}.type`)} and pg_catalog.octet_length(${row}.blob) >= ${MIN_BYTES}`;
    const { rows } = await this.client.query<Found>(
      `select c.checkpoint_ns as ns, c.checkpoint_id as id, c.parent_checkpoint_id as parent,
              new.channels, new.versions, new."hasPlaces", new_writes.count as writes
         from (select checkpoint_ns, checkpoint_id, parent_checkpoint_id, ${versionsOf('checkpoints')} as named
                 from ${checkpoints} as checkpoints
                where thread_id = $1
                  ${last === undefined ? '' : 'and (checkpoint_id collate "C", checkpoint_ns collate "C") > ($2, $3)'}
                order by checkpoint_id collate "C", checkpoint_ns collate "C"
                limit ${PAGE}) as c
         left join lateral (select ${versionsOf('p')} as named
                              from ${checkpoints} p
                             where p.thread_id = $1 and p.checkpoint_ns = c.checkpoint_ns and p.checkpoint_id = c.parent_checkpoint_id
                             limit 1
                            offset 0) as parent on true
        cross join lateral (
               select coalesce(pg_catalog.array_agg(v.key) filter (where b.is_whole), '{}') as channels,
                      coalesce(pg_catalog.array_agg(v.value) filter (where b.is_whole), '{}') as versions,
                      coalesce(pg_catalog.bool_or(b.is_place), false) as "hasPlaces"
                 from pg_catalog.jsonb_each_text(c.named) as v
                cross join lateral (select ${isWhole('found')} as is_whole, ${isPlace('found.type')} as is_place
                                      from ${blobs} as found
                                     where found.thread_id = $1 and found.checkpoint_ns = c.checkpoint_ns
                                       and found.channel = v.key and found.version = v.value
                                     limit 1) as b
                where v.value is distinct from parent.named ->> v.key) as new
        cross join lateral (
               select pg_catalog.count(*)::int as count
                 from ${writes} w
                where w.thread_id = $1 and w.checkpoint_ns = c.checkpoint_ns and w.checkpoint_id = c.checkpoint_id
                  and ${isWhole('w')}) as new_writes
        order by c.checkpoint_id collate "C", c.checkpoint_ns collate "C"`,
      last === undefined ? [threadId] : [threadId, last.id, last.ns],
    );
    return rows;
  }

  async blobs(threadId: StoredThreadId, { ns, channels, versions }: Found): Promise<ReadBlob[]> {
    const { rows } = await this.client.query<ReadBlob>(
      `select b.*
         from rows from (pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[])) as v (channel, version)
        cross join lateral (select f.channel, f.version, f.type, f.blob, f.xmin::text as xmin
                              from ${this.tables.blobs} f
                             where f.thread_id = $1 and f.checkpoint_ns = $2 and f.channel = v.channel and f.version = v.version
                             limit 1) as b
        where b.blob is not null and not ${isPlace('b.type')}`,
      [threadId, ns, channels, versions],
    );
    return rows;
  }

  async writes(threadId: StoredThreadId, { ns, id }: Found): Promise<ReadWrite[]> {
    const { rows } = await this.client.query<ReadWrite>(
      `select task_id, idx, channel, type, blob, xmin::text as xmin
         from ${this.tables.writes}
        where thread_id = $1 and checkpoint_ns = $2 and checkpoint_id = $3
          and not ${isPlace('type')} and pg_catalog.octet_length(blob) >= ${MIN_BYTES}
        order by task_id, idx`,
      [threadId, ns, id],
    );
    return rows;
  }

  /** The values of a checkpoint that others may go on from; places too. */
  async valuesOf(threadId: StoredThreadId, ns: string, id: string): Promise<StoredBlob[]> {
    const { rows } = await this.client.query<StoredBlob>(
      `select b.channel, b.version, b.type, b.blob
         from ${this.tables.checkpoints} c
        cross join lateral pg_catalog.jsonb_each_text(${versionsOf('c')}) as v
        cross join lateral (select f.*
                              from ${this.tables.blobs} f
                             where f.thread_id = $1 and f.checkpoint_ns = $2 and f.channel = v.key and f.version = v.value
                             limit 1) as b
        where c.thread_id = $1 and c.checkpoint_ns = $2 and c.checkpoint_id = $3
          and ${bytesOfValue('b.type', 'b.blob')} >= ${MIN_BYTES}`,
      [threadId, ns, id],
    );
    return rows;
  }
}

/** Adopted documents may be json. */
function versionsOf(row: string): string {
  return channelVersions(`${row}.checkpoint::jsonb`);
}
