import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from 'pg';
import { DataSource, type DataSourceOptions, MigrationExecutor } from 'typeorm';
import type { Settings } from '../config/env.js';
import { dataSourceOptions, MIGRATION_NAMES, MIGRATIONS_TABLE } from './data-source.js';
import { faultOfRights, grantsFor, type Rights, rightsColumns } from './rights.js';
import { connect } from './server.js';

const POLL_MS = 100;
/** Any constant; the second half of the lock's key is the schema. */
const LOCK_CLASS = 5003;

/**
 * Brings the schema up to date; returns the names of what was run. Instances that start together take turns, since
 * TypeORM itself takes no lock.
 */
export function migrate(settings: Settings, databaseUrl: string): Promise<string[]> {
  return withMigrations(settings, databaseUrl, async (dataSource) => {
    const migrations = await dataSource.runMigrations();
    return migrations.map((migration) => migration.name);
  });
}

/** Takes back the last migration; returns its name, null when none was left. Tables that hold rows are not dropped. */
export function revert(settings: Settings, databaseUrl: string): Promise<string | null> {
  return withMigrations(settings, databaseUrl, async (dataSource) => {
    const done = await new MigrationExecutor(dataSource).getExecutedMigrations();
    await dataSource.undoLastMigration();
    return done[0]?.name ?? null;
  });
}

/** Every migration of this release in its order, and whether the database has it. Changes nothing. */
export async function migrationStatus(
  settings: Settings,
  databaseUrl: string,
): Promise<{ name: string; isApplied: boolean }[]> {
  const client = await connect(settings, databaseUrl);
  try {
    const table = `"${settings.databaseSchema}".${MIGRATIONS_TABLE}`;
    const found = await client.query<{ isThere: boolean }>(
      'select pg_catalog.to_regclass($1) is not null as "isThere"',
      [table],
    );
    const done = found.rows[0]?.isThere
      ? (await client.query<{ name: string }>(`select name from ${table}`)).rows
      : [];
    const names = new Set(done.map(({ name }) => name));
    return MIGRATION_NAMES.map((name) => ({ name, isApplied: names.has(name) }));
  } finally {
    await client.end();
  }
}

/** Gives a role what it needs to serve; returns the statements. */
export async function grantTo(settings: Settings, databaseUrl: string, role: string): Promise<string[]> {
  const statements = grantsFor(settings.databaseSchema, role);
  const client = await connect(settings, databaseUrl);
  try {
    // Sent together, these are one transaction.
    await client.query(statements.join(';\n'));
    return statements;
  } finally {
    await client.end();
  }
}

/** What is wrong with the rights that this role has on the tables, in words for an operator; null: nothing. */
export async function inspectRights(settings: Settings, databaseUrl: string): Promise<string | null> {
  const client = await connect(settings, databaseUrl);
  try {
    const { rows } = await client.query<Rights>(`select ${rightsColumns(settings)}`);
    return faultOfRights(rows[0] ?? { lacking: [], filtered: [] });
  } finally {
    await client.end();
  }
}

async function withMigrations<T>(
  settings: Settings,
  databaseUrl: string,
  work: (dataSource: DataSource) => Promise<T>,
): Promise<T> {
  const client = await connect(settings, databaseUrl);
  try {
    await refuseUnsuitable(client);
    await lock(client, settings.databaseSchema);
    const dataSource = await new DataSource({
      ...dataSourceOptions(settings, databaseUrl),
      url: databaseUrl,
      poolSize: 2,
      extra: { statement_timeout: 0 },
    } as DataSourceOptions).initialize();
    try {
      await createSchema(dataSource, settings.databaseSchema);
      return await work(dataSource);
    } finally {
      await dataSource.destroy();
    }
  } finally {
    await client.end();
  }
}

/**
 * Held by an open transaction, not by the session, so that it works behind a transaction pooler. Polled, and without
 * parameters, because `create index concurrently` waits for every snapshot: that of a statement which waits for a lock,
 * and that of a bound statement, which lasts as long as its transaction.
 */
async function lock(client: Client, schema: string): Promise<void> {
  for (;;) {
    await client.query('begin');
    await client.query('set local idle_in_transaction_session_timeout = 0');
    const answer = await client.query(
      `select pg_catalog.pg_try_advisory_xact_lock(${LOCK_CLASS}, pg_catalog.hashtext('${schema}')) as locked`,
    );
    if ((answer.rows as [{ locked: boolean }])[0].locked) return;
    await client.query('rollback');
    await delay(POLL_MS);
  }
}

async function refuseUnsuitable(client: Client): Promise<void> {
  const answer = await client.query(
    `select pg_catalog.current_setting('server_version_num')::int as version,
            pg_catalog.current_setting('server_encoding') as encoding`,
  );
  const [{ version, encoding }] = answer.rows as [{ version: number; encoding: string }];
  if (version < 140_000)
    throw new Error(`Postgres 14 or newer is needed; this server has version number ${version}`);
  if (encoding !== 'UTF8') throw new Error(`The database's encoding must be UTF8; it is ${encoding}`);
}

/** Asks first, since `create schema if not exists` needs a right on the database even when the schema exists. */
async function createSchema(dataSource: DataSource, schema: string): Promise<void> {
  const found = await dataSource.query<unknown[]>(
    'select 1 from pg_catalog.pg_namespace where nspname = $1',
    [schema],
  );
  if (found.length === 0) await dataSource.query(`create schema "${schema}"`);
}
