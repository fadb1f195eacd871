import type { CheckpointFilter, TuplePart } from '../domain/checkpoint.js';
import { bytesOfValue } from './log-records.js';
import { toJsonb } from './jsonb-text.js';
import { channelVersions, type Tables, isOfTenant } from './tables.js';

/** A read as SQL needs it: what is in the text of its statement, and the values that it brings. */
export interface ReadForm {
  conditions: string[];
  order: string[];
  /** How many checkpoints the statement may look at. */
  maxRows: number;
  parts: TuplePart[];
  isPaged: boolean;
  /** Whether the values are elements of arrays, an element for each read that shares the statement. */
  isMerged: boolean;
  /** The last one is the limit, when the read is paged. */
  values: string[];
}

/**
 * Limits that a statement is made for. A limit that is a parameter lets Postgres expect a tenth of the rows and read a
 * thread as a whole; one in the text, whatever it is, would make a thousand statements of each form.
 */
const LIMIT_STEPS = [10, 100, 1000];

/** In bytes, of documents. */
const LARGE = 64 * 1024;

export function formOf(
  filter: CheckpointFilter,
  limit: number,
  parts: TuplePart[],
  { isPaged, isMerged }: { isPaged: boolean; isMerged: boolean },
): ReadForm {
  const values: string[] = [];
  const bind = (value: string) => `${isMerged ? 'v.v' : '$'}${values.push(value)}`;
  const { conditions, order } = conditionsOf(filter, bind);
  const maxRows = isPaged ? (LIMIT_STEPS.find((step) => step >= limit) ?? limit) : limit;
  if (isPaged) bind(String(limit));
  return { conditions, order, maxRows, parts, isPaged, isMerged, values };
}

/** Everything that the text of the statement depends on. */
export function keyOf({ conditions, maxRows, parts, isPaged, isMerged }: ReadForm): string {
  return [...conditions, maxRows, ...parts, isPaged, isMerged].join(' and ');
}

/** The statement of a read that looks for one checkpoint, or for one page. */
export function textOf(form: ReadForm, tables: Tables, pageBytes: number): string {
  return form.isPaged ? pageText(form, tables, pageBytes) : tupleText(form, tables);
}

function conditionsOf(filter: CheckpointFilter, bind: (value: string) => string) {
  const conditions: string[] = [];
  const order: string[] = [];

  if (filter.checkpointId !== null) conditions.push(`checkpoint_id = ${bind(filter.checkpointId)}`);
  else order.push('checkpoint_id collate "C"');
  if (filter.checkpointNs !== null) conditions.push(`checkpoint_ns = ${bind(filter.checkpointNs)}`);
  else order.push('checkpoint_ns collate "C"');
  if (typeof filter.threads === 'string') conditions.push(`thread_id = ${bind(filter.threads)}`);
  else {
    conditions.push(isOfTenant(filter.threads, bind));
    order.push('thread_id collate "C"');
  }

  if (filter.beforeCheckpointId !== null) {
    conditions.push(`checkpoint_id collate "C" < ${bind(filter.beforeCheckpointId)}`);
  }
  if (filter.after !== null) {
    const { checkpointId, checkpointNs, threadId } = filter.after;
    conditions.push(
      `(checkpoint_id collate "C", checkpoint_ns collate "C", thread_id collate "C")
       < (${[checkpointId, checkpointNs, threadId].map(bind).join(', ')})`,
    );
  }
  if (filter.metadata !== null) {
    const {
      mark,
      texts: [metadata],
    } = toJsonb(filter.metadata);
    conditions.push(
      mark === null
        ? `metadata::jsonb @> ${bind(metadata)}::jsonb`
        : // Each row has its own mark; a row without one holds no character that this filter asks for.
          `metadata::jsonb @> pg_catalog.replace(${bind(metadata)}, ${bind(mark)}, type)::jsonb`,
    );
  }
  return { conditions, order };
}

/**
 * The reads that share the statement. The select around a parameter hides its length from Postgres, which would plan anew
 * for each.
 */
function askedSql({ isMerged, values }: ReadForm): string {
  if (!isMerged) return '(select 1 as asked) as v';
  const numbers = values.map((_, at) => at + 1);
  return `rows from (${numbers.map((n) => `pg_catalog.unnest((select $${n}::text[]))`).join(', ')})
            with ordinality as v (${numbers.map((n) => `v${n}`).join(', ')}, asked)`;
}

/**
 * Found by the primary key in byte order (adopted tables: checkpoints_byte_order_idx), which is why the order names no
 * column that a condition holds constant. Adopted documents may be json.
 */
function foundSql({ conditions, order, maxRows, isPaged }: ReadForm, { checkpoints }: Tables): string {
  return `
      select thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
             checkpoint::jsonb as checkpoint, metadata::jsonb as metadata
        from ${checkpoints}
       where ${conditions.join(' and ')}
       ${order.length > 0 ? `order by ${order.map((column) => `${column} desc`).join(', ')}` : ''}
       limit ${isPaged ? maxRows + 1 : maxRows}`;
}

/**
 * A lateral join keeps the order of what it joins, and branches that read a CTE never run in parallel, so the rows arrive
 * branch by branch, each in its order.
 */
function tupleText(form: ReadForm, tables: Tables): string {
  const { parts } = form;
  const found = `${askedSql(form)} cross join lateral (${foundSql(form, tables)}) as found`;
  const columns = `thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint::text, metadata::text,
             asked::int`;
  // ::text outside, or without a namespace the generic plan takes another index.
  if (parts.length === 0) return `select ${columns} from ${found}`;
  return `
      with page as materialized (select asked::int, 1 as k, found.* from ${found})
      select ${columns}, k, null, null::bytea from page
      ${parts
        .map((part) => partOf(part, tables))
        .map(
          ({ columns, from, order }) =>
            `union all (select ${columns}, asked, k, kind, blob from page cross join ${from} ${order})`,
        )
        .join('\n')}`;
}

/**
 * A page ends by rows and by bytes. It is put together checkpoint by checkpoint, and `total` is what has been read up to a
 * row; sizes are known before values are: `octet_length` does not fetch a large blob. The last row may be one that only tells
 * that there are more checkpoints: the one after `limit`, without documents, or, where the bytes are used up, one of the
 * kind `beyond`. Postgres 15 and newer stop there, since a count that grows cannot fall again. The first checkpoint always
 * belongs to the page.
 *
 * Windows without an order take the rows as they come. What a window holds has to stay small, since one that outgrows
 * `work_mem` reads all that there is before it goes on: large documents pass it as jsonb, and become text twice. `offset 0`
 * keeps the others from that.
 */
function pageText(form: ReadForm, tables: Tables, pageBytes: number): string {
  const { parts, values, isMerged } = form;
  const limit = isMerged ? `v.v${values.length}::int` : `(select $${values.length}::int)`;
  const hasParts = parts.length > 0;
  return `
      select a, b, c, d, e, case when not is_beyond then coalesce(f, large_f::text) end,
             case when not is_beyond then coalesce(g, large_g::text) end, asked::int
             ${hasParts ? `, k, case when is_beyond then 'beyond' else kind end, case when not is_beyond then blob end` : ''}
        from (
          select *, pg_catalog.count(*) filter (where is_beyond) over (rows unbounded preceding) as beyond
            from (
              select *, pg_catalog.sum(bytes::float8) over (rows unbounded preceding) > ${pageBytes}
                        and (asked > 1 or k > 1) as is_beyond
                from (
                  select page.asked, page.k, part.*
                    from (
                      select asked, k > ${limit} as is_more, found.*
                        from ${askedSql(form)}
                       cross join lateral (select (pg_catalog.row_number() over ())::int as k, *
                                             from (select * from (${foundSql(form, tables)}) as found
                                                    limit ${limit} + 1) as found) as found
                      offset 0
                    ) as page
                   cross join lateral (
                     (select thread_id as a, checkpoint_ns as b, checkpoint_id as c, parent_checkpoint_id as d, type as e,
                             case when pg_catalog.octet_length(f) < ${LARGE} then f end as f,
                             case when pg_catalog.octet_length(g) < ${LARGE} then g end as g,
                             case when pg_catalog.octet_length(f) >= ${LARGE} then checkpoint end as large_f,
                             case when pg_catalog.octet_length(g) >= ${LARGE} then metadata end as large_g,
                             ${hasParts ? 'null as kind, null::bytea as blob,' : ''}
                             ${bytesOf('thread_id', 'checkpoint_ns', 'checkpoint_id', 'parent_checkpoint_id', 'f', 'g')} as bytes
                        from (select case when not is_more then checkpoint::text end as f,
                                     case when not is_more then metadata::text end as g
                              offset 0) as document
                      offset 0)
                     ${parts
                       .map((part) => partOf(part, tables))
                       .map(
                         ({ columns, from, order, bytes }) =>
                           `union all (select ${columns}, null, null, kind, blob, ${bytes} from ${from} where not is_more ${order})`,
                       )
                       .join('\n')}
                   ) as part
                ) as part
            ) as part
        ) as part
       where beyond <= 1`;
}

/** What a row takes, in bytes: at least, since in an answer a name may become longer, and a blob does. */
function bytesOf(...columns: string[]): string {
  return ['128::bigint', ...columns.map((column) => `coalesce(pg_catalog.octet_length(${column}), 0)`)].join(
    ' + ',
  );
}

/** What belongs to a checkpoint of `page`. */
function partOf(part: TuplePart, { blobs, writes }: Tables) {
  if (part === 'blobs') {
    return {
      columns: 'part.channel, part.version, part.type, null, null, null, null',
      // Whatever else a client stored as channel_versions, the checkpoint can be read. `limit` and `offset` make
      // what follows look-ups by key; without statistics Postgres would read the whole thread to join it.
      from: `pg_catalog.jsonb_each_text(
                   ${channelVersions('checkpoint')}) as v
           cross join lateral (select 'blobs' as kind, b.*
                                 from ${blobs} b
                                where b.thread_id = page.thread_id and b.checkpoint_ns = page.checkpoint_ns
                                  and b.channel = v.key and b.version = v.value
                                limit 1) as part`,
      order: '',
      bytes: `${bytesOf('part.channel', 'part.version', 'part.type')} + coalesce(${bytesOfValue('part.type', 'part.blob')}, 0)`,
    };
  }
  const isSend = part === 'pending_sends';
  return {
    columns: 'part.task_id, part.channel, part.task_path, part.type, part.idx::text, null, null',
    from: `lateral (select '${part}' as kind, w.*
                              from ${writes} w
                             where w.thread_id = page.thread_id and w.checkpoint_ns = page.checkpoint_ns
                               and ${
                                 isSend
                                   ? `w.checkpoint_id = page.parent_checkpoint_id and w.channel = '__pregel_tasks'`
                                   : 'w.checkpoint_id = page.checkpoint_id'
                               }
                            offset 0) as part`,
    order: `order by ${isSend ? 'part.task_path collate "C", ' : ''}part.task_id collate "C", part.idx`,
    bytes: `${bytesOf('part.task_id', 'part.channel', 'part.task_path', 'part.type')} + coalesce(${bytesOfValue('part.type', 'part.blob')}, 0)`,
  };
}
