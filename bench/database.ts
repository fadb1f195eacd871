import pg from 'pg';
import { postmasterOf } from './measure.js';
import {
  METADATA_TEMPLATE,
  type Shape,
  WRITES_PER_TASK,
  checkpointTemplate,
  newThreads,
  pieces,
  stepSql,
} from './payload.js';
import type { Operation } from './store.js';

/** Rows of each table. */
export type Rows = Record<'checkpoints' | 'checkpoint_blobs' | 'checkpoint_writes', number>;

/** What fills the rows of stored threads when nobody reads them. */
const LONGEST_UNREAD_BLOB_BYTES = 2048;

const made: string[] = [];

/** The database of one candidate. */
export class Database {
  private readonly client: pg.Client;

  private constructor(readonly url: string) {
    this.client = new pg.Client({ connectionString: url });
    this.client.on('error', () => undefined); // at the end the server stops; else the next query says it
  }

  /** Makes it anew on the server, without tables. In collation C, the fastest for every candidate. */
  static async create(serverUrl: string, name: string): Promise<Database> {
    await onServer(serverUrl, [
      `drop database if exists ${name} with (force)`,
      `create database ${name} template template0 encoding 'UTF8' locale 'C'`,
    ]);
    made.push(name);
    const url = new URL(serverUrl);
    url.pathname = `/${name}`;
    const database = new Database(url.href);
    await database.client.connect();
    return database;
  }

  async query<Row extends object>(sql: string, values: unknown[] = []): Promise<Row[]> {
    return (await this.client.query<Row>(sql, values)).rows;
  }

  /** Empties the tables and stores threads anew. Resolves with their ids. */
  async reload(shape: Shape, count: number, checkpoints: number): Promise<string[]> {
    await this.query('truncate checkpoints, checkpoint_blobs, checkpoint_writes');
    const threads = newThreads(count);
    await this.store(shape, threads, checkpoints, checkpointTemplate(shape));
    await this.settle();
    return threads;
  }

  /** Leaves no work of what was stored to what comes next, and statistics for its plans. */
  async settle(): Promise<void> {
    await this.query('vacuum (analyze) checkpoints, checkpoint_blobs, checkpoint_writes');
    await this.query('checkpoint');
  }

  /** Stores threads as `step` says, with another text of their checkpoints when nobody reads them. */
  async store(shape: Shape, threads: string[], checkpoints: number, template: string): Promise<void> {
    const sql = stepSql(shape, 'n');
    const steps = `unnest($1::text[]) as thread_id cross join generate_series(0, $2::int - 1) as n`;
    const contents = pieces(Math.min(shape.blobBytes, LONGEST_UNREAD_BLOB_BYTES));
    await this.query(
      `insert into checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
       select thread_id, ${sql.checkpointId}, ${sql.parentCheckpointId}, ${sql.checkpoint('$3')}, ${sql.metadata('$4')}
         from ${steps}`,
      [threads, checkpoints, template, METADATA_TEMPLATE],
    );
    await this.query(
      `insert into checkpoint_blobs (thread_id, channel, version, type, blob)
       select thread_id, ${sql.channel('i')}, ${sql.version}, 'bytes', ($3::bytea[])[1 + ${sql.blobPiece('i')}]
         from ${steps} cross join generate_series(0, ${shape.freshChannels} - 1) as i`,
      [threads, checkpoints, contents],
    );
    await this.query(
      `insert into checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
       select thread_id, ${sql.checkpointId}, ${sql.taskId('task')}, i, 'channel-' || i, 'bytes',
              substring(($3::bytea[])[1 + ${sql.writePiece('task', 'i')}] from 1 for ${shape.writeBytes})
         from ${steps} cross join generate_series(0, ${shape.tasks} - 1) as task
        cross join generate_series(0, ${WRITES_PER_TASK} - 1) as i`,
      [threads, checkpoints, contents],
    );
  }

  async end(): Promise<void> {
    await this.client.end();
  }

  async rows(): Promise<Rows> {
    const [rows] = await this.query<Rows>(
      `select (select count(*)::int from checkpoints) as checkpoints,
              (select count(*)::int from checkpoint_blobs) as checkpoint_blobs,
              (select count(*)::int from checkpoint_writes) as checkpoint_writes`,
    );
    if (rows === undefined) throw new Error('count(*) gave no row');
    return rows;
  }
}

/** Leaves a server that goes on as it was. */
export function dropDatabases(serverUrl: string): Promise<void> {
  const statements = made.map((name) => `drop database if exists ${name} with (force)`);
  return onServer(serverUrl, statements);
}

async function onServer(url: string, statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  for (const statement of statements) await client.query(statement);
  await client.end();
}

/** What the run has to know of the server: its postmaster when that is on this machine, its version, its compression. */
export async function inspect(serverUrl: string) {
  const client = new pg.Client({ connectionString: serverUrl });
  await client.connect();
  const { rows } = await client.query<{ pid: number; version: string; methods: string[] }>(
    `select pg_backend_pid() as pid, current_setting('server_version') as version,
            (select enumvals from pg_settings where name = 'default_toast_compression') as methods`,
  );
  const [{ pid, version, methods } = { pid: 0, version: '', methods: [] }] = rows;
  const postmaster = postmasterOf(pid);
  await client.end();
  return { postmaster, version, hasLz4: methods.includes('lz4') };
}

/** How the acknowledged operations change the number of rows; a thread that was deleted had that many checkpoints. */
export function changedRows(
  shape: Shape,
  checkpointsOfThread: number,
  { put = 0, 'put-writes': putWrites = 0, 'delete-thread': deleted = 0 }: Partial<Record<Operation, number>>,
): Rows {
  const checkpoints = put - deleted * checkpointsOfThread;
  return {
    checkpoints,
    checkpoint_blobs: checkpoints * shape.freshChannels,
    checkpoint_writes: (putWrites - deleted * checkpointsOfThread * shape.tasks) * WRITES_PER_TASK,
  };
}
