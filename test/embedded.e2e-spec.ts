import { type ChildProcess, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { aPut } from './support/builders.js';
import { aDataDir, cleanUp, clusterOf, isRunning, postmasterOf, Service, until } from './support/process.js';

const SLOW_MS = 90_000;
const isRoot = process.getuid?.() === 0;
const itAsRoot = isRoot ? it : it.skip;
const itOnLinux = process.platform === 'linux' ? it : it.skip;

const others: ChildProcess[] = [];
const servers: net.Server[] = [];
afterEach(async () => {
  for (const other of others.splice(0)) other.kill('SIGKILL');
  for (const server of servers.splice(0)) server.close();
  await cleanUp();
}, SLOW_MS);

const start = (DATA_DIR: string) => Service.start({ DATA_DIR }).ready();
const put = (service: Service, checkpoint_id: string) =>
  service.post('put', aPut({ thread_id: 't', checkpoint_id })).then(({ status }) => status);
const get = async (service: Service) =>
  (await service.post('get-tuple', { thread_id: 't' })).json?.checkpoint_id;

/** Resolves with its log, once the start has failed by itself. */
async function refused(DATA_DIR: string): Promise<string> {
  const service = Service.start({ DATA_DIR });
  expect(await service.exited()).toBe(1);
  return service.log;
}

/** A data directory with a checkpoint in it, whose server has ended as by a power cut. */
async function aCrashed(): Promise<string> {
  const dataDir = aDataDir();
  const service = await start(dataDir);
  expect(await put(service, '1')).toBe(200);
  const file = join(clusterOf(dataDir), 'postmaster.pid');
  const text = readFileSync(file, 'utf8');
  const { uid, gid } = statSync(file);
  expect(await service.stop()).toBe(0);
  writeFileSync(file, text);
  chownSync(file, uid, gid);
  return dataDir;
}

describe('a postmaster.pid that was left behind', () => {
  const withPid = async (pid: number): Promise<void> => {
    const dataDir = await aCrashed();
    const file = join(clusterOf(dataDir), 'postmaster.pid');
    const { uid, gid } = statSync(file);
    writeFileSync(file, readFileSync(file, 'utf8').replace(/^\d+/, String(pid)));
    chownSync(file, uid, gid);
    const service = await start(dataDir);
    expect(await get(service)).toBe('1');
    expect(postmasterOf(dataDir)).not.toBe(pid);
    expect(isRunning(pid)).toBe(true);
    expect(await service.stop()).toBe(0);
    expect(isRunning(pid)).toBe(true);
  };

  itOnLinux(
    'with the number of another Postgres holds nothing up, and that one is left alone',
    async () => {
      const other = aDataDir();
      await start(other);
      await withPid(postmasterOf(other)!);
    },
    SLOW_MS,
  );

  itOnLinux(
    'with the number of any other program, too',
    async () => {
      const other = spawn('sleep', ['300'], { stdio: 'ignore' });
      others.push(other);
      await withPid(other.pid!);
    },
    SLOW_MS,
  );
});

describe('whoever takes the port of the server', () => {
  itOnLinux(
    'is sent no password and nothing else, and the service goes on without the port',
    async () => {
      const dataDir = aDataDir();
      const service = await start(dataDir);
      expect(await put(service, '1')).toBe(200);
      const [pid, , , port] = readFileSync(join(clusterOf(dataDir), 'postmaster.pid'), 'utf8')
        .split('\n')
        .map(Number);
      const got: Buffer[] = [];
      const thief = net.createServer((socket) => {
        socket.on('error', () => undefined);
        socket.on('data', (chunk) => {
          got.push(chunk);
          socket.write(Buffer.from('R\0\0\0\x08\0\0\0\x03', 'latin1')); // asks for the password in clear
        });
      });
      thief.on('error', () => setTimeout(() => thief.listen(port, '127.0.0.1'), 1));
      servers.push(thief);
      thief.listen(port, '127.0.0.1');
      await new Promise((resolve) => setTimeout(resolve, 100));
      process.kill(pid!, 'SIGKILL');
      await until('the port is taken', () => thief.listening || postmasterOf(dataDir) !== pid);
      expect(await put(service, '2')).toBe(200);
      expect(await get(service)).toBe('2');
      expect(Buffer.concat(got).toString('latin1')).toBe('');
      const password = readFileSync(join(clusterOf(dataDir), 'checkpoint-backend.password'), 'utf8').trim();
      expect(password.length).toBeGreaterThan(20);
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  itOnLinux(
    'finds no connection of the service on it anyway',
    async () => {
      const dataDir = aDataDir();
      const service = await start(dataDir);
      await put(service, '1');
      const [, , , port, sockets] = readFileSync(join(clusterOf(dataDir), 'postmaster.pid'), 'utf8').split(
        '\n',
      );
      expect(statSync(sockets!).mode & 0o077).toBe(0);
      const password = readFileSync(join(clusterOf(dataDir), 'checkpoint-backend.password'), 'utf8').trim();
      const client = new pg.Client({
        connectionString: `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`,
        application_name: 'test',
      });
      await client.connect();
      const { rows } = await client.query(
        `select application_name from pg_stat_activity where client_addr is not null`,
      );
      expect(rows).toEqual([{ application_name: 'test' }]);
      await client.end();
      await service.stop();
    },
    SLOW_MS,
  );
});

describe('DATA_DIR', () => {
  it.each(['700', '755'])(
    'of mode %s stays as it is',
    async (mode) => {
      const dataDir = aDataDir();
      chmodSync(dataDir, Number.parseInt(mode, 8));
      const service = await start(dataDir);
      expect(await put(service, '1')).toBe(200);
      expect(await service.stop()).toBe(0);
      expect((statSync(dataDir).mode & 0o777).toString(8)).toBe(mode);
      const again = await start(dataDir);
      expect(await get(again)).toBe('1');
      await again.stop();
    },
    SLOW_MS,
  );

  it.each([false, true])(
    'may be a symbolic link, also to what is closed to others: %s',
    async (closed) => {
      const dataDir = aDataDir({ closed });
      mkdirSync(dataDir, { recursive: true });
      const link = join(aDataDir(), 'link');
      symlinkSync(dataDir, link);
      const service = await start(link);
      expect(await put(service, '1')).toBe(200);
      expect(await service.stop()).toBe(0);
      const direct = await start(dataDir);
      expect(await get(direct)).toBe('1');
      await direct.stop();
    },
    SLOW_MS,
  );

  it(
    'may have a path that is too long for a socket',
    async () => {
      const dataDir = join(aDataDir(), 'a'.repeat(60), 'b'.repeat(60));
      const service = await start(dataDir);
      expect(await put(service, '1')).toBe(200);
      process.kill(postmasterOf(dataDir)!, 'SIGKILL');
      expect(await put(service, '2')).toBe(200);
      const [, , , , sockets] = readFileSync(join(clusterOf(dataDir), 'postmaster.pid'), 'utf8').split('\n');
      expect(await service.stop()).toBe(0);
      expect(existsSync(sockets!)).toBe(false);
    },
    SLOW_MS,
  );

  const refusals: { what: string; make: (dataDir: string) => string | undefined; says: RegExp }[] = [
    {
      what: 'whose cluster is a volume with lost+found',
      make: (dataDir) => {
        mkdirSync(join(dataDir, 'postgres/lost+found'), { recursive: true });
        return undefined;
      },
      says: /is no cluster of Postgres: it holds lost\+found/,
    },
    {
      what: 'whose cluster is a file',
      make: (dataDir) => {
        writeFileSync(join(dataDir, 'postgres'), '');
        return undefined;
      },
      says: /postgres is no directory/,
    },
    {
      what: 'whose cluster is a link',
      make: (dataDir) => {
        symlinkSync('/tmp', join(dataDir, 'postgres'));
        return undefined;
      },
      says: /postgres is a symbolic link/,
    },
    {
      what: 'whose log is a link',
      make: (dataDir) => {
        symlinkSync(join(dataDir, 'elsewhere'), join(dataDir, 'postgres.log'));
        return undefined;
      },
      says: /postgres\.log is a symbolic link/,
    },
    { what: 'below a file', make: () => '/etc/hostname/data', says: /DATA_DIR cannot be .*ENOTDIR/ },
    { what: 'that is a file', make: () => '/etc/hostname', says: /DATA_DIR cannot be .*no directory/ },
    {
      what: 'that is a link to nowhere',
      make: (dataDir) => {
        symlinkSync(join(dataDir, 'nowhere'), join(dataDir, 'link'));
        return join(dataDir, 'link');
      },
      says: /DATA_DIR cannot be .*ENOENT/,
    },
    {
      what: 'that is a link to itself',
      make: (dataDir) => {
        symlinkSync(join(dataDir, 'link'), join(dataDir, 'link'));
        return join(dataDir, 'link');
      },
      says: /DATA_DIR cannot be .*ELOOP/,
    },
    ...(process.platform === 'linux'
      ? ['/proc/x', '/proc/x/y', '/sys/x'].map((path) => ({
          what: `at ${path}`,
          make: () => path,
          says: /DATA_DIR cannot be/,
        }))
      : []),
  ];
  it.each(refusals)(
    'is refused in words $what',
    async ({ make, says }) => {
      const dataDir = aDataDir();
      const given = make(dataDir) ?? dataDir;
      const before = readdirSync(dataDir);
      expect(await refused(given)).toMatch(says);
      expect(readdirSync(dataDir).filter((name) => name !== 'postgres')).toEqual(
        before.filter((name) => name !== 'postgres'),
      );
      for (const name of ['postgres', 'postgres.log', 'link'])
        rmSync(join(dataDir, name), { recursive: true, force: true });
    },
    SLOW_MS,
  );

  it(
    "is refused in words when the cluster is somebody's own",
    async () => {
      const dataDir = aDataDir();
      await (await start(dataDir)).stop();
      rmSync(join(clusterOf(dataDir), 'checkpoint-backend.password'));
      expect(await refused(dataDir)).toMatch(/a cluster that this service has not made/);
    },
    SLOW_MS,
  );

  itAsRoot(
    "is refused in words when the cluster is another user's, or its location is forged",
    async () => {
      const dataDir = aDataDir();
      await (await start(dataDir)).stop();
      chownSync(clusterOf(dataDir), 12_345, 12_345);
      expect(await refused(dataDir)).toMatch(/belongs to user 12345, and Postgres runs as user/);
      const closed = aDataDir({ closed: true });
      mkdirSync(closed);
      for (const forged of ['/etc', '/var/lib/checkpoint-backend/../../../etc', '']) {
        writeFileSync(join(closed, 'location'), forged);
        expect(await refused(closed)).toMatch(/location is not what this service has written there/);
      }
      rmSync(join(closed, 'location'));
    },
    SLOW_MS,
  );

  it('that cannot be used does not keep the service from ending by SIGTERM', async () => {
    const service = Service.start({ DATA_DIR: '/proc/x/y/z' });
    service.kill('SIGTERM');
    await service.exited();
    expect(service.hasExited).toBe(true);
  });
});
