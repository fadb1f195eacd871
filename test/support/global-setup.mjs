// Runs once before all suites: a Postgres to test on, and in it a migrated database that every suite clones.
import { chmodSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { Settings } from '../../dist/src/config/env.js';
import { migrate } from '../../dist/src/database/migrate.js';
import { EmbeddedPostgres } from '../../dist/src/database/embedded/embedded-postgres.js';
import { createLogger } from '../../dist/src/observability/logging.js';

async function serverUrl() {
  if (process.env.TEST_DATABASE_URL) return { url: process.env.TEST_DATABASE_URL, stop: () => undefined };
  if (process.env.TEST_POSTGRES === 'container') {
    // Not among the dependencies: it needs Node 22 and a Docker engine.
    const { PostgreSqlContainer } = await import('@testcontainers/postgresql').catch((cause) => {
      throw new Error('Run `npm install --no-save @testcontainers/postgresql` first', { cause });
    });
    const container = await new PostgreSqlContainer(process.env.TEST_POSTGRES_IMAGE ?? 'postgres:17').start();
    return { url: container.getConnectionUri(), stop: () => container.stop() };
  }
  const dataDir = mkdtempSync(join(tmpdir(), 'checkpoint-backend-test-'));
  chmodSync(dataDir, 0o755); // else root's Postgres could not get in, and its data would be elsewhere
  // A crash of the machine may cost a test its rows; what the planner knows of a table should not depend on when it is looked at.
  const settings = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', autovacuum: 'off' };
  const embedded = await EmbeddedPostgres.start({ dataDir, settings, logger: createLogger('warn') });
  return { url: embedded.url, stop: () => embedded.stop(), dataDir };
}

export default async function setup() {
  const server = await serverUrl();
  globalThis.testServer = server;
  const template = `template_${process.pid}`;
  const client = new pg.Client({ connectionString: server.url });
  await client.connect();
  await client.query(`create database ${template}`);
  await client.end();
  const url = new URL(server.url);
  url.pathname = `/${template}`;
  await migrate(new Settings({ AUTH_MODE: 'none', DATABASE_URL: url.href }), url.href);
  if (process.env.TEST_MIGRATION) {
    const migrated = new pg.Client({ connectionString: url.href });
    await migrated.connect();
    await migrated.query(readFileSync(process.env.TEST_MIGRATION, 'utf8'));
    await migrated.end();
  }
  process.env.TEST_SERVER_URL = server.url;
  process.env.TEST_TEMPLATE = template;
}
