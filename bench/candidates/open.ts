import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import { Database } from '../database.js';
import type { CandidateName } from '../profiles.js';
import type { Candidate } from './candidate.js';
import { Grown } from './grown.js';
import { Keyed } from './keyed.js';
import { PGBENCH, Pgbench } from './pgbench.js';
import { JavaScriptSaver, PythonSaver } from './saver.js';
import { SERVICE, Served, YARDSTICK } from './served.js';

/** Why a candidate cannot be measured here; null when it can. */
export function unavailable(name: CandidateName): string | null {
  if (name === 'python' && !PythonSaver.isAvailable) {
    return 'there is no Python environment; clients/python/run-tests makes it';
  }
  if (name === 'pgbench' && PGBENCH === null) return 'there is no pgbench';
  return null;
}

/** Makes the candidate's database on the server and its tables in it, and starts it. A grown one has `rows` rows. */
export async function open(name: CandidateName, serverUrl: string, rows: number): Promise<Candidate> {
  const database = await Database.create(serverUrl, `bench_${name.replace('-', '_').toLowerCase()}`);
  switch (name) {
    case 'service':
    case 'small':
      return new Served(name, database, SERVICE).start();
    case 'service-off':
      return new Served(name, database, SERVICE, { FAST_PATH: 'false' }).start();
    case 'keys':
      return new Keyed(database).start();
    case 'grown':
      return new Grown(database, rows).start();
    case 'E':
      await setUpAsPython(database);
      return new Served(name, database, YARDSTICK).start();
    case 'javascript':
      await setUpAsJavaScript(database);
      return new JavaScriptSaver(database);
    case 'python':
      return new PythonSaver(database).setUp();
    case 'pgbench':
      await setUpAsPython(database);
      return new Pgbench(database);
  }
}

/** LangGraph's tables, made by its JavaScript saver. */
async function setUpAsJavaScript(database: Database): Promise<void> {
  const saver = PostgresSaver.fromConnString(database.url);
  await saver.setup();
  await saver.end();
}

/** What Python's saver adds to them. */
async function setUpAsPython(database: Database): Promise<void> {
  await setUpAsJavaScript(database);
  await database.query(`alter table checkpoint_writes add column task_path text not null default ''`);
  for (const table of ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes']) {
    await database.query(`create index ${table}_thread_id_idx on ${table} (thread_id)`);
  }
}
