import { rmSync } from 'node:fs';
import pg from 'pg';

export default async function teardown() {
  const { url, stop, dataDir } = globalThis.testServer;
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`drop database if exists ${process.env.TEST_TEMPLATE}`);
  await client.end();
  await stop();
  if (dataDir !== undefined) rmSync(dataDir, { recursive: true, force: true });
}
