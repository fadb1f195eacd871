import type { TestDatabase } from './database.js';

type Sql = TestDatabase['sql'];

export const TABLES = ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes'];

/** LangGraph's tables as its newest savers expect them. */
export const COLUMNS: Record<string, string[]> = {
  checkpoints: [
    'thread_id text not null',
    "checkpoint_ns text not null default ''::text",
    'checkpoint_id text not null',
    'parent_checkpoint_id text',
    'type text',
    'checkpoint jsonb not null',
    "metadata jsonb not null default '{}'::jsonb",
  ],
  checkpoint_blobs: [
    'thread_id text not null',
    "checkpoint_ns text not null default ''::text",
    'channel text not null',
    'version text not null',
    'type text not null',
    'blob bytea',
  ],
  checkpoint_writes: [
    'thread_id text not null',
    "checkpoint_ns text not null default ''::text",
    'checkpoint_id text not null',
    'task_id text not null',
    'idx integer not null',
    'channel text not null',
    'type text',
    'blob bytea not null',
    "task_path text not null default ''::text",
  ],
  checkpoint_migrations: ['v integer not null'],
};

/** Their indexes; each one valid. */
export const SAVERS_INDEXES: Record<string, string> = {
  checkpoints_pkey: 'unique (thread_id, checkpoint_ns, checkpoint_id)',
  checkpoints_thread_id_idx: '(thread_id)',
  checkpoint_blobs_pkey: 'unique (thread_id, checkpoint_ns, channel, version)',
  checkpoint_blobs_thread_id_idx: '(thread_id)',
  checkpoint_writes_pkey: 'unique (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)',
  checkpoint_writes_thread_id_idx: '(thread_id)',
  checkpoint_migrations_pkey: 'unique (v)',
};

/** … and after the migrations. */
export const INDEXES: Record<string, string> = {
  ...SAVERS_INDEXES,
  checkpoints_thread_order_idx: '(thread_id, checkpoint_id, checkpoint_ns)',
  checkpoints_run_id_idx:
    "(hashtextextended((metadata ->> 'run_id'::text), (0)::bigint)) WHERE ((metadata ->> 'run_id'::text) IS NOT NULL)",
};

/** What an adopted database has beside or in place of them, since its own collation cannot order ids by their bytes. */
export const BYTE_ORDER_INDEX = {
  checkpoints_byte_order_idx: '(thread_id, checkpoint_ns, checkpoint_id COLLATE "C")',
  checkpoints_thread_order_idx: '(thread_id, checkpoint_id COLLATE "C", checkpoint_ns COLLATE "C")',
};

export async function columnsOf(sql: Sql, schema = 'public'): Promise<Record<string, string[]>> {
  const rows = await sql<{ name: string; columns: string[] }>(
    `select c.relname as name,
            array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                      || case when a.attnotnull then ' not null' else '' end
                      || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') order by a.attnum) as columns
       from pg_class c
       join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
       left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
      where c.relnamespace = $1::regnamespace and c.relname = any($2)
      group by c.relname`,
    [schema, Object.keys(COLUMNS)],
  );
  return Object.fromEntries(rows.map(({ name, columns }) => [name, columns]));
}

export async function indexesOf(sql: Sql, schema = 'public'): Promise<Record<string, string>> {
  const rows = await sql<{ name: string; definition: string; valid: boolean }>(
    `select n.relname as name, i.indisvalid as valid,
            case when i.indisunique then 'unique ' else '' end
              || substring(pg_get_indexdef(i.indexrelid) from 'btree (.*)$') as definition
       from pg_index i
       join pg_class n on n.oid = i.indexrelid
       join pg_class t on t.oid = i.indrelid
      where t.relnamespace = $1::regnamespace and t.relname = any($2)`,
    [schema, Object.keys(COLUMNS)],
  );
  return Object.fromEntries(
    rows.map(({ name, definition, valid }) => [name, valid ? definition : `invalid ${definition}`]),
  );
}

/** How the tables keep new blobs: '' is the server's default compression, l is lz4. */
export async function storageOf(
  sql: Sql,
): Promise<Record<string, { compression: string; options: string[] | null }>> {
  const rows = await sql<{ name: string; compression: string; options: string[] | null }>(
    `select c.relname as name, a.attcompression as compression, c.reloptions as options
       from pg_class c
       join pg_attribute a on a.attrelid = c.oid and a.attname = 'blob'
      where c.relnamespace = 'public'::regnamespace and c.relname = any($1)`,
    [TABLES],
  );
  return Object.fromEntries(rows.map(({ name, ...storage }) => [name, storage]));
}

/** The versions that the savers' own migrations find. */
export async function versionsOf(sql: Sql, schema = 'public'): Promise<number[]> {
  const rows = await sql<{ v: number }>(`select v from "${schema}".checkpoint_migrations order by v`);
  return rows.map(({ v }) => v);
}

/** Tables, sequences and indexes beside TypeORM's bookkeeping, which it makes before it runs any migration. */
export async function relationsOf(sql: Sql): Promise<string[]> {
  const rows = await sql<{ name: string }>(
    `select n.nspname || '.' || c.relname as name
       from pg_class c
       join pg_namespace n on n.oid = c.relnamespace
      where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
      order by 1`,
  );
  return rows.map(({ name }) => name);
}

/** Per table its columns and rows. A row that was touched has another place (ctid) or writer (xmin), even if it reads the same. */
export type Rows = Record<string, { columns: string[]; rows: string[] }>;

/** The rows of all tables that exist, in the columns of `before`, or in all. */
export async function rowsOf(sql: Sql, before: Rows = {}): Promise<Rows> {
  const found: Rows = {};
  for (const table of TABLES) {
    const columns =
      before[table]?.columns ??
      (
        await sql<{ name: string }>(
          `select attname as name from pg_attribute
            where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`,
          [table],
        )
      ).map(({ name }) => name);
    if (columns.length === 0) continue;
    const rows = await sql<{ row: string }>(
      `select row(ctid, xmin, ${columns.join(', ')})::text as row from ${table} order by ctid`,
    );
    found[table] = { columns, rows: rows.map(({ row }) => row) };
  }
  return found;
}
