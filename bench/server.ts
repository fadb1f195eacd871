import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { pino } from 'pino';
import { EmbeddedPostgres, freePort } from '../src/database/embedded/embedded-postgres.js';
import { dropDatabases } from './database.js';

const DEBIAN = '/usr/lib/postgresql';
const START_MS = 30_000;
const POLL_MS = 50;

/** Durable as by default. Otherwise such that no checkpoint or vacuum of one candidate falls into a part of another. */
const SETTINGS = {
  shared_buffers: '512MB',
  max_wal_size: '4GB',
  checkpoint_timeout: '1h',
  autovacuum: 'off',
  max_connections: '300',
};

export interface Server {
  url: string;
  stop: () => Promise<void>;
}

/** BENCH_DATABASE_URL, else a server of the run's own in `directory`: Debian's programs, or the embedded ones. */
export async function startServer(directory: string): Promise<Server> {
  const given = process.env.BENCH_DATABASE_URL;
  if (given !== undefined && given !== '') return { url: given, stop: () => dropDatabases(given) };
  const programs = debianPrograms();
  if (programs !== null) return startDebian(programs, directory);
  const logger = pino({ level: 'warn' });
  const embedded = await EmbeddedPostgres.start({ dataDir: directory, settings: SETTINGS, logger });
  return { url: embedded.url, stop: () => embedded.stop() };
}

/** The programs of the newest Postgres that Debian's packages installed; null when there is none. */
export function debianPrograms(): string | null {
  const [newest] = (existsSync(DEBIAN) ? readdirSync(DEBIAN) : [])
    .filter((version) => existsSync(join(DEBIAN, version, 'bin', 'initdb')))
    .toSorted((a, b) => Number(b) - Number(a));
  return newest === undefined ? null : join(DEBIAN, newest, 'bin');
}

async function startDebian(programs: string, directory: string): Promise<Server> {
  const identity = process.getuid?.() === 0 ? postgresUser() : undefined;
  const [data, passwordFile] = [join(directory, 'postgres'), join(directory, 'password')];
  const password = randomBytes(24).toString('base64url');
  mkdirSync(data, { mode: 0o700 });
  writeFileSync(passwordFile, password, { mode: 0o600 });
  const log = openSync(join(directory, 'postgres.log'), 'a');
  if (identity !== undefined) {
    for (const path of [directory, data, passwordFile]) chownSync(path, identity.uid, identity.gid);
  }
  await promisify(execFile)(
    join(programs, 'initdb'),
    [...'--locale=C -E UTF8 -U postgres -A scram-sha-256'.split(' '), '-D', data, `--pwfile=${passwordFile}`],
    { ...identity, cwd: '/' },
  );
  const port = await freePort();
  const options = { ...SETTINGS, port, listen_addresses: '127.0.0.1', unix_socket_directories: '' };
  const server = spawn(
    join(programs, 'postgres'),
    ['-D', data, ...Object.entries(options).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    // A session of its own: Ctrl-C in a terminal is for the run, which stops Postgres last.
    { ...identity, cwd: '/', detached: true, stdio: ['ignore', log, log] },
  );
  const url = `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`;
  const deadline = Date.now() + START_MS;
  while (!(await answers(url))) {
    if (Date.now() > deadline || server.exitCode !== null) {
      server.kill('SIGQUIT');
      throw new Error(`Postgres did not start:\n${readFileSync(join(directory, 'postgres.log'), 'utf8')}`);
    }
    await delay(POLL_MS);
  }
  const stop = async () => {
    const closed = once(server, 'close');
    server.kill('SIGINT');
    await closed;
  };
  return { url, stop };
}

/** Postgres refuses to run as root. */
function postgresUser(): { uid: number; gid: number } {
  const [, uid, gid] = /^postgres:[^:]*:(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? [];
  if (uid === undefined || gid === undefined)
    throw new Error('There is no user postgres to run the server as');
  return { uid: Number(uid), gid: Number(gid) };
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url });
  try {
    await client.connect();
    await client.end();
    return true;
  } catch {
    return false;
  }
}
