import { execFile } from 'node:child_process';
import { existsSync, readdirSync, rmSync, statSync, writeFileSync, chownSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { Cluster } from '../../src/database/embedded/embedded-postgres.js';

/** Few connections, so that they can run out; all else as Postgres has it, fsync above all. */
const SETTINGS = {
  max_connections: '40',
  deadlock_timeout: '200ms',
  wal_keep_size: '512MB',
  // A terminated or killed server is to be found by its clients, not by its own patience.
  wal_receiver_timeout: '5s',
};

/** A real server that the run starts, kills and copies; nothing revives it by itself. */
export class Postgres {
  private constructor(
    private readonly cluster: Cluster,
    private readonly dataDir: string,
    readonly port: number,
  ) {}

  static async start(dataDir: string): Promise<Postgres> {
    const cluster = await Cluster.at({ dataDir, settings: SETTINGS });
    return new Postgres(cluster, dataDir, await cluster.serve());
  }

  get url(): string {
    return this.cluster.url(this.port);
  }

  /** Runs it again where it was. */
  async startAgain(): Promise<void> {
    await this.cluster.serve(this.port);
  }

  /** Ends its sessions, as `pg_ctl stop -m fast`. */
  async stop(): Promise<void> {
    await this.cluster.shutDown();
  }

  /** `kill -9` of the postmaster, whose children then end themselves. */
  kill(): void {
    const running = this.cluster.runningServer();
    if (running !== null) process.kill(running.pid, 'SIGKILL');
  }

  /** The files of the server belong to the user that it runs as. */
  get owner(): { uid: number; gid: number } {
    return statSync(this.cluster.directory);
  }

  /** Runs statements, each by itself, as the superuser on a connection of its own. */
  async sql<Row extends object = Record<string, unknown>>(
    statement: string,
    values: unknown[] = [],
    database = 'postgres',
  ): Promise<Row[]> {
    const client = await this.connect(database);
    try {
      return (await client.query<Row>(statement, values)).rows;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  async connect(database = 'postgres'): Promise<pg.Client> {
    const url = new URL(this.url);
    url.pathname = `/${database}`;
    const client = new pg.Client({ connectionString: url.href, application_name: 'test of faults' });
    client.on('error', () => undefined);
    await client.connect();
    return client;
  }

  /** Another server that has everything which this one has acknowledged: a base backup, then synchronous streaming. */
  async standby(dataDir: string): Promise<Postgres> {
    const target = join(dataDir, 'postgres');
    const session = await this.connect();
    await session.query("select pg_backup_start('standby', true)");
    // Files that vanish meanwhile make cp fail; what they held is in the log that is streamed.
    await promisify(execFile)('cp', ['-a', this.cluster.directory, target]).catch(() => undefined);
    const { rows } = await session.query<{ labelfile: string }>(
      'select labelfile from pg_backup_stop(false)',
    );
    await session.end();
    for (const name of ['postmaster.pid', 'postmaster.opts']) rmSync(join(target, name), { force: true });
    for (const directory of ['pg_wal', 'pg_replslot']) {
      for (const name of readdirSync(join(target, directory))) {
        rmSync(join(target, directory, name), { recursive: true });
      }
    }
    const primary = new URL(this.url);
    const files = {
      backup_label: rows[0]?.labelfile ?? '',
      'standby.signal': '',
      'postgresql.auto.conf': `primary_conninfo = 'host=127.0.0.1 port=${this.port} user=${primary.username} password=${primary.password}'\n`,
    };
    for (const [name, text] of Object.entries(files)) {
      writeFileSync(join(target, name), text);
      chownSync(join(target, name), this.owner.uid, this.owner.gid);
    }
    const standby = await Postgres.start(dataDir);
    await this.sql("alter system set synchronous_standby_names = '*'");
    await this.sql('select pg_reload_conf()');
    for (;;) {
      const [row] = await this.sql<{ sync_state: string }>('select sync_state from pg_stat_replication');
      if (row?.sync_state === 'sync') return standby;
      await delay(100);
    }
  }

  /** Makes a standby the primary. */
  async promote(): Promise<void> {
    await this.sql('select pg_promote()');
  }

  /** Ends it for good. */
  async end(): Promise<void> {
    if (existsSync(join(this.dataDir, 'postgres'))) await this.cluster.shutDown();
  }
}
