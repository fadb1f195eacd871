// Servers that the tests do not bring along: Debian's Postgres 15 and PgBouncer, each as a user other than root, on a free
// port, with its files in a temporary directory.
import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';

const PATIENCE_MS = 30_000;

/** The path of a program, null when there is none. */
export function program(name, directories = process.env.PATH.split(delimiter)) {
  for (const path of directories.map((directory) => join(directory, name))) {
    try {
      accessSync(path);
      return path;
    } catch {
      // in the next one, perhaps
    }
  }
  return null;
}

/** PgBouncer in transaction mode, keeping no prepared statements, with so many connections to a database. */
export function startForgetfulPgbouncer(pgbouncer, serverUrl, default_pool_size) {
  const [, minor] =
    /PgBouncer 1\.(\d+)/.exec(execFileSync(pgbouncer, ['--version'], { encoding: 'utf8' })) ?? [];
  // Older ones keep none, and do not know the setting.
  const settings = { default_pool_size, ...(Number(minor ?? 99) >= 21 && { max_prepared_statements: 0 }) };
  return startPgbouncer(pgbouncer, serverUrl, settings);
}

/** Postgres of these binaries, empty. */
export async function startPostgres(bin) {
  const { directory, options, remove } = workplace('postgres');
  const data = join(directory, 'data');
  const [initdb, postgres] = [join(bin, 'initdb'), join(bin, 'postgres')];
  execFileSync(initdb, ['-D', data, '-U', 'postgres', '--auth=trust', '--locale=C', '-E', 'UTF8', '-N'], {
    ...options,
    stdio: 'pipe',
  });
  const port = await freePort();
  const settings = {
    ...{ listen_addresses: '127.0.0.1', port, unix_socket_directories: '', logging_collector: 'off' },
    // A crash of the machine may cost a test its rows.
    ...{ fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' },
  };
  const told = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  // A password that nobody asks for: a test looks for it where none should be.
  const url = `postgresql://postgres:${randomUUID()}@127.0.0.1:${port}/postgres`;
  return running(spawn(postgres, ['-D', data, ...told], { ...options, stdio: 'ignore' }), url, remove);
}

/** PgBouncer in transaction mode before the server, for every database of it; else with the settings it is born with, or these. */
export async function startPgbouncer(pgbouncer, serverUrl, given = {}) {
  const { directory, options, remove } = workplace('pgbouncer');
  const server = new URL(serverUrl);
  const port = await freePort();
  const users = join(directory, 'users.txt');
  const settings = join(directory, 'pgbouncer.ini');
  writeFileSync(users, `"${server.username}" "${decodeURIComponent(server.password)}"\n`);
  writeFileSync(
    settings,
    `[databases]
* = host=${server.hostname} port=${server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
pool_mode = transaction
default_pool_size = 5
max_client_conn = 1000
${Object.entries(given)
  .map(([name, value]) => `${name} = ${value}\n`)
  .join('')}`,
  );
  for (const file of [users, settings]) chmodSync(file, 0o644);
  const url = new URL(serverUrl);
  url.port = String(port);
  return running(spawn(pgbouncer, ['-q', settings], { ...options, stdio: 'ignore' }), url.href, remove);
}

function workplace(name) {
  const directory = mkdtempSync(join(tmpdir(), `checkpoint-backend-${name}-`));
  const identity = process.getuid?.() === 0 ? unprivileged() : undefined;
  if (identity !== undefined) chownSync(directory, identity.uid, identity.gid);
  return {
    directory,
    options: { cwd: directory, ...identity },
    remove: () => {
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function unprivileged() {
  const users = readFileSync('/etc/passwd', 'utf8').split('\n');
  const user = ['postgres', 'nobody']
    .map((name) => users.find((line) => line.startsWith(`${name}:`)))
    .find(Boolean);
  const [, , uid, gid] = user.split(':');
  return { uid: Number(uid), gid: Number(gid) };
}

async function running(child, url, remove) {
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGINT');
      await once(child, 'exit');
    }
    remove();
  };
  for (const deadline = Date.now() + PATIENCE_MS; ; await delay(50)) {
    const client = new pg.Client({ connectionString: url });
    try {
      await client.connect();
      await client.end();
      return { url, stop };
    } catch (error) {
      if (Date.now() < deadline && child.exitCode === null) continue;
      await stop();
      throw error;
    }
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}
