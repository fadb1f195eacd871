import { randomUUID } from 'node:crypto';
import pg from 'pg';

/** A database of a suite's own, and a connection to look into it. */
export interface TestDatabase {
  /** For the service; through a pooler when there is one. */
  url: string;
  sql: <Row = Record<string, unknown>>(text: string, values?: unknown[]) => Promise<Row[]>;
  drop: () => Promise<void>;
}

async function onServer(statement: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: process.env.TEST_SERVER_URL });
  await client.connect();
  try {
    return (await client.query(statement)).rows;
  } finally {
    await client.end();
  }
}

/** Before Postgres 15 a database cannot use ICU, which every build has. */
async function hasIcu(): Promise<boolean> {
  const rows = await onServer('show server_version_num');
  const [{ server_version_num: version }] = rows as [{ server_version_num: string }];
  return Number(version) >= 150_000;
}

const ofSystem = (locale: string) => `${locale.replace('-', '_')}.utf8`;

/** Whether databases can be made in the locale: without ICU the server's system must know it. */
export async function knowsLocale(locale: string): Promise<boolean> {
  const known = await onServer(`select from pg_collation where collname = '${ofSystem(locale)}'`);
  return known.length > 0 || (await hasIcu());
}

async function inLocale(locale: string): Promise<string> {
  return (await hasIcu())
    ? `locale_provider icu icu_locale '${locale}' locale 'C'`
    : `locale '${ofSystem(locale)}'`;
}

/** A clone of the migrated template, or with `like: 'empty'` a database without any table. */
export async function createDatabase(
  options: { like?: 'template' | 'empty'; locale?: string } = {},
): Promise<TestDatabase> {
  const { like = 'template', locale } = options;
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  const template = like === 'template' ? process.env.TEST_TEMPLATE : 'template0';
  await onServer(
    `create database ${name} template ${template} ${locale === undefined ? '' : await inLocale(locale)}`,
  );
  const urlOn = (server = '') => Object.assign(new URL(server), { pathname: `/${name}` }).href;
  const client = new pg.Client({ connectionString: urlOn(process.env.TEST_SERVER_URL) });
  client.on('error', () => undefined);
  await client.connect();
  return {
    url: urlOn(process.env.TEST_POOLER_URL ?? process.env.TEST_SERVER_URL),
    sql: async (text, values) => (await client.query(text, values)).rows as never,
    drop: async () => {
      await client.end();
      await onServer(`drop database if exists ${name} with (force)`);
    },
  };
}
