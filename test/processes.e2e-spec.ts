import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, readdirSync, readFileSync, statSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { aPut, aPutWrites, aWrite, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aGate, HELD_UP } from './support/gate.js';
import {
  aDataDir,
  cleanUp,
  clusterOf,
  isRunning,
  MAIN,
  postgresOf,
  postmasterOf,
  Service,
  until,
} from './support/process.js';

const SLOW_MS = 90_000;

const databases: TestDatabase[] = [];
afterEach(async () => {
  await cleanUp();
  for (const database of databases.splice(0)) await database.drop();
}, SLOW_MS);

async function aDatabase(like: 'empty' | 'template'): Promise<TestDatabase> {
  const database = await createDatabase({ like });
  databases.push(database);
  return database;
}

function start(environment: Record<string, string>): Promise<Service> {
  return Service.start(environment).ready();
}

/** Four at once. */
function startFour(environment: Record<string, string>): Promise<Service[]> {
  return Promise.all([1, 2, 3, 4].map(() => start(environment)));
}

async function store(service: Service, checkpointId: string): Promise<number> {
  return (await service.post('put', aPut({ checkpoint_id: checkpointId }))).status;
}

/** The ids of a thread's checkpoints, the oldest first. */
async function stored(service: Service, threadId = 'thread-1'): Promise<string[]> {
  const { json } = await service.post('list', { thread_id: threadId });
  return (json as { checkpoint_id: string }[]).map((tuple) => tuple.checkpoint_id).reverse();
}

/** The processes that answer for the service, in the order in which they became ready. */
function workersOf({ log }: Service): number[] {
  return [...log.matchAll(/\(process (\d+)\) is ready/g)].map(([, pid]) => Number(pid));
}

function childrenOf({ pid }: Service): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((process) => parentOf(process) === pid);
}

/** Undefined when the process has ended. */
function parentOf(pid: number): number | undefined {
  try {
    return Number(/\) \S+ (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1]);
  } catch {
    return undefined;
  }
}

function portOf(service: Service): string | undefined {
  return /Embedded Postgres \S+ on port (\d+)/.exec(service.log)?.[1];
}

describe('four instances that start at once', () => {
  it(
    'all serve an empty database',
    async () => {
      const database = await aDatabase('empty');
      const services = await startFour({ DATABASE_URL: database.url });
      const ids = ['1', '2', '3', '4'];
      for (const [n, id] of ids.entries()) expect(await store(services[n]!, id)).toBe(200);
      for (const service of services) expect(await stored(service)).toEqual(ids);
      const migrating = services.filter((service) => service.log.includes('migrated: '));
      expect(migrating).toHaveLength(1);
      expect(await Promise.all(services.map((service) => service.stop()))).toEqual([0, 0, 0, 0]);
    },
    SLOW_MS,
  );

  it(
    'share the server of an empty DATA_DIR, and the last one to stop stops it',
    async () => {
      const dataDir = aDataDir();
      const services = await startFour({ DATA_DIR: dataDir });
      const postmaster = postmasterOf(dataDir)!;
      expect(new Set(services.map(portOf)).size).toBe(1);
      expect(readdirSync(dataDir).sort()).toEqual(['postgres', 'postgres.log']);
      const ids = ['1', '2', '3', '4'];
      for (const [n, id] of ids.entries()) expect(await store(services[n]!, id)).toBe(200);

      const [first, ...others] = services as [Service, ...Service[]];
      expect(await first.stop()).toBe(0);
      for (const service of others) expect(await stored(service)).toEqual(ids);
      expect(postmasterOf(dataDir)).toBe(postmaster);

      expect(await Promise.all(others.map((service) => service.stop()))).toEqual([0, 0, 0]);
      expect(postgresOf(dataDir)).toEqual([]);
      expect(postmasterOf(dataDir)).toBeNull();
    },
    SLOW_MS,
  );
});

describe('the embedded Postgres', () => {
  it(
    'keeps its data across a restart, and a service that is killed',
    async () => {
      const environment = { DATA_DIR: aDataDir() };
      const first = await start(environment);
      expect(first.log.match(/Embedded Postgres/g)).toHaveLength(1);
      expect(await store(first, '1')).toBe(200);
      expect(await first.stop()).toBe(0);
      expect(postmasterOf(environment.DATA_DIR)).toBeNull();

      const second = await start(environment);
      expect(await stored(second)).toEqual(['1']);
      expect(await store(second, '2')).toBe(200);
      const postmaster = postmasterOf(environment.DATA_DIR)!;
      second.kill('SIGKILL');
      await second.exited();
      expect(postgresOf(environment.DATA_DIR)).toContain(postmaster);

      const third = await start(environment);
      expect(postmasterOf(environment.DATA_DIR)).toBe(postmaster);
      expect(await stored(third)).toEqual(['1', '2']);
      expect(await third.stop()).toBe(0);
      expect(postgresOf(environment.DATA_DIR)).toEqual([]);
    },
    SLOW_MS,
  );

  it(
    'is started again when it is killed, and requests wait for it',
    async () => {
      const dataDir = aDataDir();
      const service = await start({ DATA_DIR: dataDir });
      expect(await store(service, '1')).toBe(200);
      const killed = postmasterOf(dataDir)!;
      process.kill(killed, 'SIGKILL');
      expect(await store(service, '2')).toBe(200);
      expect(await stored(service)).toEqual(['1', '2']);
      expect(postmasterOf(dataDir)).not.toBe(killed);
      expect(await service.stop()).toBe(0);
      expect(postgresOf(dataDir)).toEqual([]);
    },
    SLOW_MS,
  );
});

describe('SIGTERM', () => {
  it.each([1, 2])(
    'under load loses no request of %i process(es)',
    async (workers) => {
      const environment = { DATA_DIR: aDataDir(), SHUTDOWN_DELAY_MS: '500', WORKERS: String(workers) };
      const service = await start(environment);
      const acknowledged = Array.from({ length: 16 }, (): string[] => []);
      const faults: unknown[] = [];
      const clients = acknowledged.map(async (ids, client) => {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        try {
          for (;;) {
            const id = String(ids.length).padStart(6, '0');
            const body = aPut({ thread_id: `client-${client}`, checkpoint_id: id });
            const { status } = await service.post('put', body, agent);
            if (status === 200) ids.push(id);
            else faults.push(status);
          }
        } catch (error) {
          if ((error as { code?: string }).code !== 'ECONNREFUSED') faults.push(error);
        } finally {
          agent.destroy();
        }
      });
      await until('every client is busy', () => acknowledged.every((ids) => ids.length >= 5));
      const before = acknowledged.flat().length;

      for (const pid of workersOf(service)) process.kill(pid, 'SIGTERM'); // as an init system may
      service.kill('SIGTERM');
      const readiness: number[] = [];
      try {
        for (;;) readiness.push((await service.get('/health/ready')).status);
      } catch {
        // The port is closed.
      }
      await Promise.all(clients);

      expect(faults).toEqual([]);
      expect(await service.exited()).toBe(0);
      expect(acknowledged.flat().length).toBeGreaterThan(before);
      // Each process hears of it in its own time.
      expect(readiness.join()).toMatch(workers === 1 ? /^(200,)*503(,503)*$/ : /^((200|503),)*503$/);

      const next = await start(environment);
      for (const [client, ids] of acknowledged.entries()) {
        expect(await stored(next, `client-${client}`)).toEqual(ids);
      }
    },
    SLOW_MS,
  );

  it.each([1, 2])(
    'to %i process(es) waits for an answer that the database holds up, not for a connection that asks nothing',
    async (workers) => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: String(workers) });
      const silent = net.connect(Number(new URL(service.url).port), '127.0.0.1').on('error', () => undefined);
      await until('the silent connection is made', () => silent.readyState === 'open');
      await database.sql('begin');
      await database.sql('lock table checkpoints');
      const answer = store(service, '1');
      await until('the request waits for the lock', async () => {
        return (await database.sql('select 1 from pg_locks where not granted')).length > 0;
      });
      service.kill('SIGTERM');
      silent.resume();
      await until('the silent connection is closed', () => silent.closed);
      await expect(service.get('/health/live')).rejects.toThrow('ECONNREFUSED');
      expect(service.hasExited).toBe(false);
      await database.sql('commit');
      expect(await answer).toBe(200);
      expect(await service.exited()).toBe(0);
      expect(await database.sql('select checkpoint_id from checkpoints')).toEqual([{ checkpoint_id: '1' }]);
    },
    SLOW_MS,
  );

  it(
    'ends the service and its Postgres, also while this is started again',
    async () => {
      const dataDir = aDataDir();
      const service = await start({ DATA_DIR: dataDir });
      process.kill(postmasterOf(dataDir)!, 'SIGKILL');
      await until('it is started again', () => service.log.includes('Embedded Postgres has gone'));
      expect(await service.stop()).toBe(0);
      expect(postgresOf(dataDir)).toEqual([]);
    },
    SLOW_MS,
  );
});

describe('several workers', () => {
  async function aPort(): Promise<{ port: number; close: () => void }> {
    const server = net.createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return { port: (server.address() as net.AddressInfo).port, close: () => void server.close() };
  }
  const isGone = (pid: number) => !isRunning(pid);

  it(
    'share a port and the pool',
    async () => {
      const database = await aDatabase('empty');
      const service = await start({
        DATABASE_URL: database.url,
        WORKERS: '2',
        DATABASE_POOL_MAX: '3',
        FAST_PATH: 'false', // which would merge them
        LOG_LEVEL: 'debug',
      });
      expect(new Set(workersOf(service)).size).toBe(2);
      for (const said of ['migrated: ', 'listening on ']) expect(service.log.split(said)).toHaveLength(2);

      const gate = await aGate(database);
      await gate.close();
      const answers = Array.from({ length: 20 }, (_, n) => store(service, String(n)));
      const waiting = async () => (await database.sql(`select 1 ${HELD_UP}`)).length;
      await until('every connection is in use', async () => (await waiting()) >= 3);
      // One that is held up is awake for a moment every now and then.
      const seen: number[] = [];
      for (let n = 0; n < 10; n += 1) {
        await delay(50);
        seen.push(await waiting());
      }
      expect(Math.max(...seen)).toBe(3);
      await gate.open();
      expect(new Set(await Promise.all(answers))).toEqual(new Set([200]));
      expect(await stored(service)).toHaveLength(20);

      expect(await service.stop()).toBe(0);
      const answered = service.log.split('\n').filter((line) => line.includes('"url":"/checkpoints/put"'));
      expect(answered).toHaveLength(20);
      for (const worker of [1, 2]) {
        expect(answered.filter((line) => line.includes(`"worker":${worker},`))).toHaveLength(10);
      }
      expect(workersOf(service).every(isGone)).toBe(true);
    },
    SLOW_MS,
  );

  it(
    'lose nothing that was acknowledged when one is killed, and another one takes its place',
    async () => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: '2' });
      const acknowledged = Array.from({ length: 8 }, (): string[] => []);
      const broken: unknown[] = [];
      let isEnding = false;
      const clients = acknowledged.map(async (ids, client) => {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        while (!isEnding) {
          const id = String(ids.length).padStart(6, '0');
          const body = aPut({ thread_id: `client-${client}`, checkpoint_id: id });
          try {
            const { status } = await service.post('put', body, agent);
            if (status === 200) ids.push(id);
            else broken.push(status);
          } catch (error) {
            broken.push((error as { code?: string }).code);
          }
        }
        agent.destroy();
      });
      const everyoneGoesOn = () => {
        const before = acknowledged.map((ids) => ids.length);
        return until('every client goes on', () => {
          return acknowledged.every((ids, client) => ids.length > before[client]! + 5);
        });
      };
      const [killed, other] = workersOf(service) as [number, number];
      await everyoneGoesOn();
      process.kill(killed, 'SIGKILL');
      await everyoneGoesOn();
      await until('another worker is ready', () => workersOf(service).length === 3);
      await everyoneGoesOn();
      isEnding = true;
      await Promise.all(clients);

      // Each client had one connection, half of them to the worker that was killed.
      expect(broken.length).toBeLessThanOrEqual(4);
      expect(broken.filter((fault) => fault !== 'ECONNRESET' && fault !== 'EPIPE')).toEqual([]);
      const rows = await database.sql<{ ids: string[] }>(
        `select array_agg(checkpoint_id order by checkpoint_id) as ids
           from checkpoints group by thread_id order by thread_id`,
      );
      expect(rows.map(({ ids }) => ids)).toEqual(acknowledged);
      expect(service.log).toContain(`(process ${killed}) ended with SIGKILL; another one starts in 100 ms`);
      expect([isRunning(killed), isRunning(other)]).toEqual([false, true]);
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  it(
    'take over the connections that were on their way to one that dies',
    async () => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: '2' });
      const [silent] = workersOf(service) as [number, number];
      process.kill(silent, 'SIGSTOP');
      let answered = 0;
      const answers = Array.from({ length: 8 }, async (_, n) => {
        const status = await store(service, String(n));
        answered += 1;
        return status;
      });
      await until('the other one has answered its half', () => answered === 4);
      process.kill(silent, 'SIGKILL');
      expect(await Promise.all(answers)).toEqual(Array(8).fill(200));
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  it(
    'stop without waiting for one that is being started',
    async () => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: '2' });
      const [killed, other] = workersOf(service) as [number, number];
      process.kill(killed, 'SIGKILL');
      const started = () => childrenOf(service).find((pid) => pid !== killed && pid !== other);
      await until('another one is being started', () => started() !== undefined);
      const held = started()!;
      process.kill(held, 'SIGSTOP');
      expect(await service.stop()).toBe(0);
      expect([isGone(held), isGone(other)]).toEqual([true, true]);
    },
    SLOW_MS,
  );

  it(
    'keep callers waiting while all of them are being replaced',
    async () => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: '2' });
      for (const pid of workersOf(service)) process.kill(pid, 'SIGKILL');
      await until('the service knows', () => service.log.split('ended with SIGKILL').length === 3);
      expect(await store(service, '1')).toBe(200);
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  it(
    'do not outlive the process that started them',
    async () => {
      const database = await aDatabase('template');
      const service = await start({ DATABASE_URL: database.url, WORKERS: '2' });
      expect(workersOf(service).map(isRunning)).toEqual([true, true]);
      const gate = await aGate(database);
      await gate.close();
      const answers = ['1', '2'].map((id) => store(service, id).catch(() => 'broken off'));
      await until('both are busy', async () => {
        return (await database.sql(`select 1 ${HELD_UP}`)).length === 2;
      });
      service.kill('SIGKILL');
      await until('the workers have ended', () => workersOf(service).every(isGone));
      expect(await Promise.all(answers)).toEqual(['broken off', 'broken off']);
      await gate.open();
    },
    SLOW_MS,
  );

  it(
    'end the service when none can start',
    async () => {
      const closed = await aPort();
      closed.close();
      const url = `postgresql://postgres@127.0.0.1:${closed.port}/postgres`;
      const service = Service.start({ DATABASE_URL: url, MIGRATE_ON_START: 'false', WORKERS: '2' });
      expect(await service.exited()).toBe(1);
      expect(service.log).toMatch(/"worker":\d,"err":{[^}]*ECONNREFUSED/);
      expect(service.log).toMatch(/worker \d \(process \d+\) could not start, it ended with code 1/);
      expect(service.log).not.toContain('listening on ');
    },
    SLOW_MS,
  );

  it.each([1, 2])(
    'report a port that is in use once, as one does: %i',
    async (workers) => {
      const database = await aDatabase('template');
      const { port, close } = await aPort();
      const service = Service.start({
        DATABASE_URL: database.url,
        PORT: String(port),
        WORKERS: String(workers),
      });
      expect(await service.exited()).toBe(1);
      close();
      const fatal = service.log.split('\n').filter((line) => line.includes('"level":"fatal"'));
      expect(fatal).toEqual([expect.stringContaining('"code":"EADDRINUSE"')]);
      expect(workersOf(service).every(isGone)).toBe(true);
    },
    SLOW_MS,
  );
});

describe('wrong settings end the start with one message', () => {
  const cases: { name: string; environment: Record<string, string>; message: string }[] = [
    {
      name: 'all faults at once',
      environment: { PORT: '99999', DATABASE_POOL_MAX: 'x' },
      message: 'PORT must be an integer from 0 to 65535; DATABASE_POOL_MAX must be an integer from 1 to 1000',
    },
    {
      name: 'more workers than connections',
      environment: { WORKERS: '11', PORT: 'x' },
      message:
        'PORT must be an integer from 0 to 65535; WORKERS must not exceed DATABASE_POOL_MAX, which they share',
    },
    {
      name: 'no database in production',
      environment: { NODE_ENV: 'production' },
      message:
        'DATABASE_URL is required in production; EMBEDDED_POSTGRES=true starts an embedded Postgres instead',
    },
    {
      name: 'nobody said who may do what',
      environment: { AUTH_MODE: '', NODE_ENV: 'production', DATABASE_URL: 'postgresql://h/d' },
      message:
        'AUTH_MODE is required: keys, jwt or both (keys,jwt). none lets anyone who reaches the port read and delete every ' +
        'thread; it is the default only for an embedded database, on a loopback address, outside production',
    },
  ];
  it.each(cases)('$name', async ({ environment, message }) => {
    const dataDir = aDataDir();
    const service = Service.start({ DATA_DIR: dataDir, ...environment });
    expect(await service.exited()).toBe(1);
    expect(service.log.trim()).toBe(`error: ${message}`);
    expect(readdirSync(dataDir)).toEqual([]);
  });

  it(
    'but production with EMBEDDED_POSTGRES=true starts',
    async () => {
      const service = await start({
        NODE_ENV: 'production',
        EMBEDDED_POSTGRES: 'true',
        DATA_DIR: aDataDir(),
      });
      expect(await store(service, '1')).toBe(200);
    },
    SLOW_MS,
  );
});

describe('the log', () => {
  it('shows the settings by their names, and a name that may be misspelt', async () => {
    const database = await aDatabase('template');
    const service = await start({
      ...{ DATABASE_URL: database.url, QUEUE_MAX: '7', DATABASE_POOLMAX: '3', SOMETHING_ELSE: '1' },
    });
    await service.stop();
    const lines = service.log
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines[0]).toMatchObject({
      msg: 'starting',
      settings: { QUEUE_MAX: '7', DATABASE_POOL_MAX: '10' },
    });
    expect(Object.keys(lines[0].settings).filter((name) => name !== name.toUpperCase())).toEqual([]);
    const warnings = lines
      .filter(({ msg }) => msg.includes('did you mean'))
      .map(({ level, msg }) => [level, msg]);
    expect(warnings).toEqual([
      [
        'warn',
        'DATABASE_POOLMAX is not a setting of this service and has no effect; did you mean DATABASE_POOL_MAX?',
      ],
    ]);
  });

  it('never shows a password', async () => {
    const password = 'open-sesame';
    const database = await aDatabase('empty');
    const role = new URL(database.url).pathname.slice(1);
    await database.sql(`create role ${role} superuser login password '${password}'`);
    const url = Object.assign(new URL(database.url), { username: role, password });
    const settings = { LOG_LEVEL: 'trace', DATABASE_URL: url.href };
    try {
      const service = await start(settings);
      expect(await store(service, '1')).toBe(200);
      await database.sql(`alter role ${role} nologin`);
      await service.stop();
      const refused = Service.start(settings);
      expect(await refused.exited()).toBe(1);
      expect(refused.log).toContain('is not permitted to log in');
      for (const { log } of [service, refused]) {
        expect(log).toContain(`//${role}:***@`);
        expect(log).not.toContain(password);
      }
    } finally {
      await database.sql(`drop owned by ${role} cascade`);
      await database.sql(`drop role ${role}`);
    }
  });

  it('never shows what is stored', async () => {
    const database = await aDatabase('template');
    const service = await start({ LOG_LEVEL: 'trace', DATABASE_URL: database.url });
    const secret = 'a-recognisable-word';
    const put = aPut({
      checkpoint: { v: 4, channel_values: { secret }, channel_versions: { secret: '1' } },
      metadata: { secret },
      blobs: [{ channel: 'secret', version: '1', type: 'bytes', blob: base64(secret) }],
    });
    const writes = aPutWrites({ writes: [aWrite({ blob: base64(secret) })] });
    const statuses = [
      (await service.post('put', put)).status,
      (await service.post('put-writes', writes)).status,
      (await service.post('get-tuple', { thread_id: 'thread-1' })).status,
      (await service.post('list', { filter_metadata: { secret } })).status,
      (await service.post('put', JSON.stringify(put).slice(0, -1))).status,
      (await service.post('put', { ...put, checkpoint_id: '', metadata: secret })).status,
    ];
    await database.sql('drop table checkpoint_blobs, checkpoint_writes');
    statuses.push((await service.post('put', put)).status, (await service.post('put-writes', writes)).status);
    expect(statuses).toEqual([200, 204, 200, 200, 400, 422, 500, 500]);
    await service.stop();
    expect(service.log.match(/"url":"\/checkpoints\/put"/g)).toHaveLength(4);
    const told = [secret, base64(secret), Buffer.from(secret).toString('hex')].filter((text) => {
      return service.log.includes(text);
    });
    expect(told).toEqual([]);
  });
});

if (process.getuid?.() === 0) {
  describe('started by root', () => {
    it(
      'lends Postgres another user, and a place when that user cannot reach DATA_DIR',
      async () => {
        const environment = { DATA_DIR: aDataDir({ closed: true }) };
        const service = await start(environment);
        const cluster = clusterOf(environment.DATA_DIR);
        expect(cluster.startsWith(environment.DATA_DIR)).toBe(false);
        expect(service.log).toContain(`data in ${cluster}`);
        expect(statSync(cluster).uid).not.toBe(0);
        expect(await store(service, '1')).toBe(200);
        expect(await service.stop()).toBe(0);
        const next = await start(environment);
        expect(clusterOf(environment.DATA_DIR)).toBe(cluster);
        expect(await stored(next)).toEqual(['1']);
      },
      SLOW_MS,
    );
  });

  const [uid, gid] = ['-u', '-g'].map((flag) => Number(execFileSync('id', [flag, 'nobody']))) as [
    number,
    number,
  ];
  const isOpen = spawnSync(process.execPath, [MAIN], {
    uid,
    gid,
    cwd: '/',
    env: { PORT: 'none' },
  }).stderr.includes('PORT');
  const itIfOpen = isOpen ? it : it.skip;
  describe('started by an ordinary user', () => {
    itIfOpen(
      `brings its own Postgres${isOpen ? '' : ' (skipped: this directory is closed to the user nobody)'}`,
      async () => {
        const dataDir = aDataDir();
        chownSync(dataDir, uid, gid);
        const service = await Service.start({ DATA_DIR: dataDir }, { uid, gid }).ready();
        expect(statSync(clusterOf(dataDir)).uid).toBe(uid);
        expect(await store(service, '1')).toBe(200);
        expect(await service.stop()).toBe(0);
        expect(postmasterOf(dataDir)).toBeNull();
      },
      SLOW_MS,
    );
  });
}
