/**
 * One statement per operation, in the forms that were the fastest. Their values are SQL expressions: the parameters of the
 * yardstick, or the variables of pgbench.
 */

/** `checkpoint`: thread, namespace, id, parent, checkpoint, metadata. Each blob: thread, namespace, channel, version, type, blob. */
export function putSql(checkpoint: string[], blobs: string[][]): string {
  const storeBlobs = `
    with stored as (
      insert into checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
      values ${rows(blobs)}
          on conflict do nothing
    )`;
  return `${blobs.length > 0 ? storeBlobs : ''}
    insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    values ${rows([checkpoint])}
        on conflict (thread_id, checkpoint_ns, checkpoint_id)
        do update set checkpoint = excluded.checkpoint, metadata = excluded.metadata`;
}

/** Each write: thread, namespace, checkpoint, task, idx, channel, type, blob, task path. */
export function putWritesSql(writes: string[][], upsert: boolean): string {
  return `
    insert into checkpoint_writes
      (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
    values ${rows(writes)}
        on conflict (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
        do ${upsert ? 'update set channel = excluded.channel, type = excluded.type, blob = excluded.blob' : 'nothing'}`;
}

/**
 * The latest checkpoint, or that with an id, its blobs and its writes, told apart by the first column. The limit makes
 * Postgres look up each blob by primary key, where a plain join reads all blobs of the thread (280 µs of CPU against 380).
 */
export function getTupleSql(threadId: string, checkpointNs: string, checkpointId: string | null): string {
  return `
    with page as materialized (
      select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
        from checkpoints
       where thread_id = ${threadId} and checkpoint_ns = ${checkpointNs}
             ${checkpointId === null ? '' : `and checkpoint_id = ${checkpointId}`}
       order by checkpoint_id desc
       limit 1
    )
    select 'checkpoint', thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint::text,
           metadata::text
      from page
     union all
    select 'blob', b.channel, b.version, b.type, encode(b.blob, 'base64'), null, null
      from page
     cross join jsonb_each_text(checkpoint -> 'channel_versions') as v
     cross join lateral (
           select channel, version, type, blob
             from checkpoint_blobs
            where thread_id = page.thread_id and checkpoint_ns = page.checkpoint_ns
              and channel = v.key and version = v.value
            limit 1) as b
     union all
   (select 'write', w.task_id, w.idx::text, w.channel, w.type, encode(w.blob, 'base64'), null
      from page
      join checkpoint_writes w
        on w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
       and w.checkpoint_id = page.checkpoint_id
     order by w.task_id, w.idx)`;
}

function rows(expressions: string[][]): string {
  return expressions.map((row) => `(${row.join(', ')})`).join(', ');
}
