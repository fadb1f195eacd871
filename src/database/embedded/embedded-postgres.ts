import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { Logger } from 'pino';
import { holdsCluster, openBase, openLog, PASSWORD_FILE, renameInto } from './data-directory.js';
import { readOrNull, unprivilegedIdentity } from './identity.js';
import { Programs } from './programs.js';

const USER = 'postgres';
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
const MAX_BACKOFF_MS = 5000;
const MAX_JOINS = 3;
/** Any constant: each service that uses the server holds it, shared, so that the last one to leave stops the server. */
const USERS_LOCK = 5_003_001;
/** Windows's builds have sockets too, but Node does not speak to them. */
const HAS_SOCKETS = process.platform !== 'win32';
const SOCKET_DIRECTORY = 'checkpoint-backend-socket-';
/** What the address of a Unix socket holds, less what Postgres adds to the directory: `/.s.PGSQL.` and the port. */
const SOCKET_PATH_BYTES = 107 - 16;

export interface EmbeddedPostgresOptions {
  /** Holds the cluster in `postgres/` and its log in `postgres.log`. */
  dataDir: string;
  logger: Logger;
  /** Settings of the server beside the defaults, such as `{ fsync: 'off' }`. */
  settings?: Record<string, string>;
}

/**
 * A Postgres of the service's own, kept in a directory. Several services may use one directory: the server that runs is
 * shared, whoever finds it dead starts it again, and the last one that stops, stops it.
 */
export class EmbeddedPostgres {
  /** By TCP, for tools. While the server is away any program of the machine may answer on its port. */
  readonly url: string;
  /** For the service: by a socket that this user and Postgres's alone can reach, where the platform has such. */
  readonly privateUrl: string;
  private stopping = false;
  private user: Client | undefined;
  private reviving = Promise.resolve();

  private constructor(
    private readonly cluster: Cluster,
    private readonly port: number,
    private readonly logger: Logger,
  ) {
    this.url = cluster.url(port);
    this.privateUrl = cluster.privateUrl(port);
  }

  /** Starts or joins the server of the directory. @throws Error that says what to do */
  static async start(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
    const cluster = await Cluster.at(options);
    for (let attempt = 1; ; attempt += 1) {
      const port = await cluster.serve();
      const embedded = new EmbeddedPostgres(cluster, port, options.logger);
      try {
        await embedded.join();
        options.logger.info(
          `Embedded Postgres ${cluster.version} on port ${port}, data in ${cluster.directory}`,
        );
        return embedded;
      } catch (error) {
        // Another service, the last one until now, was just stopping the server.
        if (attempt === MAX_JOINS) throw error;
      }
    }
  }

  /** Stops the server, unless another service uses it. */
  async stop(): Promise<void> {
    this.stopping = true;
    // A server that is just being started again is joined first, so that it is not left behind.
    await this.reviving;
    const { user } = this;
    if (user === undefined) return; // lost, and nobody can say whether others use the server
    try {
      await user.query('select pg_catalog.pg_advisory_unlock_shared($1)', [USERS_LOCK]);
      const last = await user.query('select pg_catalog.pg_try_advisory_lock($1) as last', [USERS_LOCK]);
      if ((last.rows as [{ last: boolean }])[0].last) await this.cluster.shutDown();
    } catch (error) {
      // Another service, the last one, stopped the server in between: there is nothing left to stop.
      this.logger.warn(
        `Embedded Postgres has gone while stopping: ${error instanceof Error ? error.message : String(error)}`,
      );
    } finally {
      await user.end().catch(() => undefined);
    }
  }

  /** Takes a connection that tells the others of this service, and this service of the server's end. */
  private async join(): Promise<void> {
    const user = new Client({
      connectionString: this.privateUrl,
      application_name: 'checkpoint-backend supervisor',
      keepAlive: true,
    });
    user.on('error', () => undefined); // 'end' follows
    await user.connect();
    await user.query('select pg_catalog.pg_advisory_lock_shared($1)', [USERS_LOCK]);
    user.once('end', () => {
      this.user = undefined;
      if (!this.stopping) this.reviving = this.revive();
    });
    this.user = user;
  }

  private async revive(): Promise<void> {
    this.logger.error('Embedded Postgres has gone; starting it again');
    for (let wait = POLL_MS; !this.stopping; wait = Math.min(2 * wait, MAX_BACKOFF_MS)) {
      try {
        await this.cluster.serve(this.port);
        await this.join();
        this.logger.info('Embedded Postgres is back');
        return;
      } catch (error) {
        this.logger.error(
          `Embedded Postgres does not start: ${error instanceof Error ? error.message : String(error)}`,
        );
        await delay(wait);
      }
    }
  }
}

/** The files of a Postgres cluster, and the programs that serve them. */
export class Cluster {
  private constructor(
    readonly directory: string,
    readonly version: string,
    private readonly password: string,
    private readonly programs: Programs,
    private readonly log: string,
    private readonly settings: Record<string, string>,
  ) {}

  private sockets: string | null = null;

  static async at({ dataDir, settings = {} }: Omit<EmbeddedPostgresOptions, 'logger'>): Promise<Cluster> {
    const identity = unprivilegedIdentity();
    const base = openBase(dataDir, identity);
    const programs = await Programs.find(identity, base);
    const directory = join(base, 'postgres');
    if (!holdsCluster(directory, identity)) await initialise(directory, programs);
    const made = readFileSync(join(directory, 'PG_VERSION'), 'utf8').trim();
    const major = programs.version.split('.')[0];
    if (made !== major) {
      throw new Error(
        `${directory} was made by Postgres ${made}; this service brings ${major}. ` +
          `Move it by pg_dump, or set DATABASE_URL to a server of version ${made}.`,
      );
    }
    const password = readFileSync(join(directory, PASSWORD_FILE), 'utf8').trim();
    return new Cluster(directory, programs.version, password, programs, join(base, 'postgres.log'), settings);
  }

  url(port: number): string {
    return `postgresql://${USER}:${this.password}@127.0.0.1:${port}/postgres`;
  }

  /** @throws Error before the server was found or started */
  privateUrl(port: number): string {
    if (this.sockets === null) throw new Error('Where its socket is, is not known yet');
    // A server that an earlier release has started has none.
    if (this.sockets === '') return this.url(port);
    return `${this.url(port)}?host=${encodeURIComponent(this.sockets)}`;
  }

  /** Resolves with the port on which the cluster is served: by a server that runs already, or by a new one. */
  async serve(port?: number): Promise<number> {
    const deadline = performance.now() + START_TIMEOUT_MS;
    let server: ChildProcess | undefined;
    for (let wait = POLL_MS; performance.now() < deadline;) {
      const running = this.runningServer();
      if (running?.isReady === true && (await this.answers(running))) return running.port;
      const starting = server?.exitCode === null && server.signalCode === null;
      if (!starting) {
        // Not started yet, or another service was faster, or what a killed server left is not gone yet.
        if (server !== undefined) wait = Math.min(2 * wait, MAX_BACKOFF_MS);
        this.forgetStranger();
        server = await this.spawn(port ?? (await freePort()));
      }
      await delay(wait);
    }
    throw new Error(
      `Postgres did not start within ${START_TIMEOUT_MS / 1000} s; its log ${this.log} says why`,
    );
  }

  /** Ends the server's sessions and waits until it has written everything. */
  async shutDown(): Promise<void> {
    const running = this.runningServer();
    if (running === null) return;
    process.kill(running.pid, 'SIGINT');
    while (existsSync(join(this.directory, 'postmaster.pid')) && isAlive(running.pid)) await delay(POLL_MS);
    if (basename(running.sockets).startsWith(SOCKET_DIRECTORY))
      rmSync(running.sockets, { recursive: true, force: true });
  }

  private async spawn(port: number): Promise<ChildProcess> {
    const options = {
      port: String(port),
      // Who has taken the port meanwhile keeps tools out, and not the service.
      listen_addresses: !HAS_SOCKETS || (await isFree(port)) ? '127.0.0.1' : '',
      unix_socket_directories: HAS_SOCKETS ? this.socketDirectory() : '',
      max_connections: '200',
      ...this.settings,
    };
    const log = openLog(this.log);
    // A session of its own: Ctrl-C in a terminal is for the service, which then stops Postgres last.
    const server = spawn(
      this.programs.postgres,
      [
        '-D',
        this.directory,
        ...Object.entries(options).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      ],
      { ...this.programs.identity, cwd: '/', detached: true, stdio: ['ignore', log, log] },
    );
    closeSync(log);
    server.on('error', () => undefined); // seen by the caller as a server that does not answer
    server.unref();
    return server;
  }

  /** The cluster's own directory, which is closed to others; another one that is where its path is too long. */
  private socketDirectory(): string {
    if (Buffer.byteLength(this.directory) <= SOCKET_PATH_BYTES) return this.directory;
    if (this.sockets !== null && this.sockets !== '' && existsSync(this.sockets)) return this.sockets;
    const directory = mkdtempSync(join(realpathSync(tmpdir()), SOCKET_DIRECTORY));
    const { identity } = this.programs;
    if (identity !== undefined) chownSync(directory, identity.uid, identity.gid);
    return directory;
  }

  /** What postmaster.pid says in its lines 1, 4, 5 and 8, when its process is this cluster's server. */
  runningServer(): { pid: number; port: number; sockets: string; isReady: boolean } | null {
    const lines = (readOrNull(join(this.directory, 'postmaster.pid')) ?? '').split('\n');
    const [pid, port] = [Number(lines[0]), Number(lines[3])];
    if (!(pid > 0 && port > 0 && isAlive(pid) && isServerOf(pid, this.directory))) return null;
    // Before it is ready, the other lines may be missing.
    return { pid, port, sockets: lines[4] ?? '', isReady: /^(ready|standby)/.test(lines[7] ?? '') };
  }

  private async answers({ port, sockets }: { port: number; sockets: string }): Promise<boolean> {
    this.sockets = sockets;
    const client = new Client({ connectionString: this.privateUrl(port), connectionTimeoutMillis: 2000 });
    client.on('error', () => undefined);
    try {
      await client.connect();
      return true;
    } catch {
      return false;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  /**
   * After a restart of the machine or container another program may have the number of the server that was killed, also
   * another server of Postgres; this one would then refuse to start for ever.
   */
  private forgetStranger(): void {
    const names = readdirSync(this.directory).filter((name) =>
      /^(postmaster\.pid|\.s\.PGSQL\.\d+\.lock)$/.test(name),
    );
    for (const file of names.map((name) => join(this.directory, name))) {
      const text = readOrNull(file);
      const pid = Number(text?.split('\n')[0]);
      if (!(pid > 0) || !isAlive(pid) || isServerOf(pid, this.directory)) continue;
      // Unless another service was faster, and it is a new server's by now.
      if (readOrNull(file) === text) rmSync(file, { force: true });
    }
  }
}

/** Made beside its place and renamed, so that a start that is cut off leaves nothing half done. */
async function initialise(directory: string, { initdb, identity }: Programs): Promise<void> {
  const unfinished = `${directory}.${randomUUID()}`;
  mkdirSync(unfinished, { mode: 0o700 });
  const passwordFile = `${unfinished}.password`;
  writeFileSync(passwordFile, randomBytes(24).toString('base64url'), { mode: 0o600 });
  if (identity !== undefined)
    for (const path of [unfinished, passwordFile]) chownSync(path, identity.uid, identity.gid);
  try {
    await promisify(execFile)(
      initdb,
      [
        ...['-D', unfinished, '-U', USER, '-E', 'UTF8', '--locale=C', '--auth=scram-sha-256'],
        ...[`--pwfile=${passwordFile}`],
      ],
      { ...identity, cwd: '/' },
    );
    renameSync(passwordFile, join(unfinished, PASSWORD_FILE));
    renameInto(unfinished, directory, () => existsSync(join(directory, 'PG_VERSION')));
  } catch (error) {
    const { stderr = String(error) } = error as { stderr?: string };
    throw new Error(`initdb failed in ${directory}: ${stderr.trim()}`, { cause: error });
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
    rmSync(passwordFile, { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** Whether the process works in the directory. Where nobody can say, it is taken to. */
function isServerOf(pid: number, directory: string): boolean {
  if (process.platform === 'win32') return true;
  // For everybody to read; the other one is for its owner alone, and follows what was a link.
  const command = readOrNull(`/proc/${pid}/cmdline`);
  if (command !== null) {
    if (command.split('\0').includes(directory)) return true;
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === directory;
    } catch {
      return false;
    }
  }
  if (existsSync('/proc/self/cmdline')) return false; // it has ended
  try {
    return execFileSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).includes(
      directory,
    );
  } catch {
    return false;
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

/** A port of 127.0.0.1 that nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  return typeof address === 'object' && address !== null ? address.port : 0;
}
