import { once } from 'node:events';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { aPut, aThread } from './support/builders.js';
import { Authority, type Pair } from './support/certificates.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service, until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const SLOW_MS = 60_000;
const A_STORE =
  'POST /checkpoints/put HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{';
const NAMES = 'DNS:localhost,IP:127.0.0.1';

let authority: Authority;
let ca: string;
let database: TestDatabase;
let directory: string;
let mounted = 0;
beforeAll(async () => {
  authority = new Authority();
  ca = authority.cert;
  database = await createDatabase();
});
afterAll(async () => {
  authority.remove();
  await database.drop();
});

/** Puts the pair where the service looks, as Kubernetes does it with a Secret: the files are links through one that moves. */
function mount({ cert, key }: Pair): void {
  const [version, link] = [join(directory, `..${(mounted += 1)}`), join(directory, '..data')];
  mkdirSync(version);
  writeFileSync(join(version, 'tls.crt'), cert);
  writeFileSync(join(version, 'tls.key'), key);
  symlinkSync(version, `${link}_tmp`);
  renameSync(`${link}_tmp`, link);
}

/** A new directory for the pair, and the settings that name it. */
function settings(pair?: Pair): Record<string, string> {
  directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-tls-'));
  if (pair !== undefined) mount(pair);
  for (const name of ['tls.crt', 'tls.key']) symlinkSync(join('..data', name), join(directory, name));
  return { TLS_CERT: join(directory, 'tls.crt'), TLS_KEY: join(directory, 'tls.key') };
}

/** Starts the service on the test's database with a new certificate. */
function start(environment: Record<string, string> = {}): Promise<Service> {
  const own = settings(authority.issue(NAMES, 'first'));
  return Service.start({ DATABASE_URL: database.url, ...own, ...environment }, { ca }).ready();
}

async function end(): Promise<void> {
  await cleanUp();
  rmSync(directory, { recursive: true });
}

/** Whose certificate a new connection gets. */
async function shown(service: Service): Promise<string> {
  const { socket } = await RawClient.openTls(service.url, { ca });
  const { CN } = (socket as tls.TLSSocket).getPeerCertificate().subject;
  socket.destroy();
  return String(CN);
}

describe.each([1, 2])('TLS with %i process(es)', (count) => {
  let service: Service;
  beforeAll(async () => {
    const limits = { HEADERS_TIMEOUT_MS: '2000', STALL_TIMEOUT_MS: '2000' };
    service = await start({ WORKERS: String(count), ...limits });
  }, SLOW_MS);
  afterAll(end, SLOW_MS);

  it('answers operations and probes, and plain HTTP not at all', async () => {
    expect(service.log).toContain(`listening on ${service.url}`);
    expect(service.url).toMatch(/^https:/);
    const thread_id = aThread();
    expect((await service.post('put', aPut({ thread_id }))).status).toBe(200);
    expect((await service.post('get-tuple', { thread_id })).json.thread_id).toBe(thread_id);
    expect((await service.post('get-tuple', {})).json.type).toBe('/problems/invalid-request');
    expect((await service.get('/health/live')).json).toEqual({ status: 'ok' });
    const plain = (await RawClient.open(service.url)).write('GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n');
    expect(await plain.closed()).not.toContain('HTTP/');
  });

  it(
    'takes a new pair from the files, without a restart and without harm to open connections',
    async () => {
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca });
      const store = () => service.post('put', aPut({ thread_id: aThread() }), agent);
      const ports = new Set<number | undefined>();
      agent.on('free', (socket: net.Socket) => ports.add(socket.localPort));
      expect((await store()).status).toBe(200);
      mount(authority.issue(NAMES, 'second'));
      const taken = () => service.log.split('TLS by a new certificate of CN=second').length - 1;
      await until('all have the new one', async () => {
        expect((await store()).status).toBe(200);
        return taken() === count;
      });
      expect([await shown(service), await shown(service)]).toEqual(['second', 'second']);
      expect((await store()).status).toBe(200);
      expect(ports.size).toBe(1);
      agent.destroy();
    },
    SLOW_MS,
  );

  it(
    'keeps its pair when what is in the files is none, says so once, and takes the next that is one',
    async () => {
      const [one, other] = [authority.issue(NAMES), authority.issue(NAMES)];
      const refused = () => service.log.split('TLS goes on with the former certificate: ').length - 1;
      mount({ cert: one.cert, key: other.key });
      await until('all have refused the pair', () => refused() === count);
      mount({ cert: '', key: other.key });
      await until('all have refused the next one', () => refused() === 2 * count);
      expect(await shown(service)).toBe('second');
      mount(authority.issue(NAMES, 'third'));
      await until('the new one is taken', async () => (await shown(service)) === 'third');
      expect(refused()).toBe(2 * count);
    },
    SLOW_MS,
  );

  it.each([
    ['says nothing', { encrypted: false, text: '', answer: /^$/ }],
    ['says nothing once it is encrypted', { encrypted: true, text: '', answer: /^HTTP\/1.1 408 / }],
    ['does not end its headers', { encrypted: true, text: 'GET / HTTP/1.1\r\n', answer: /^HTTP\/1.1 408 / }],
    ['stops in its body', { encrypted: true, text: A_STORE, answer: /^$/ }],
  ])('cuts a client off that %s', async (_, { encrypted, text, answer }) => {
    const client = await (encrypted ? RawClient.openTls(service.url, { ca }) : RawClient.open(service.url));
    expect(await client.write(text).closed()).toMatch(answer);
  });

  it(
    'stops when everything is answered, whatever its connections are at',
    async () => {
      await database.sql('begin');
      await database.sql('lock table checkpoints');
      const answer = service.post('put', aPut({ thread_id: aThread() }));
      await until('the request waits for the lock', async () => {
        return (await database.sql('select 1 from pg_locks where not granted')).length > 0;
      });
      const shaking = await RawClient.open(service.url);
      const idle = await RawClient.openTls(service.url, { ca });
      service.kill('SIGTERM');
      await Promise.all([shaking.closed(), idle.closed()]);
      expect(service.hasExited).toBe(false);
      await database.sql('commit');
      expect((await answer).status).toBe(200);
      expect(await service.exited()).toBe(0);
    },
    SLOW_MS,
  );
});

describe('a service with TLS', () => {
  afterEach(end);

  it(
    'speaks TLS 1.2 and 1.3, and HTTP/1.1 in it',
    async () => {
      const service = await start({ NODE_OPTIONS: '--tls-min-v1.0' });
      const at = (version: tls.SecureVersion) =>
        RawClient.openTls(service.url, {
          ...{ ca, minVersion: version, maxVersion: version, ALPNProtocols: ['h2', 'http/1.1'] },
          ciphers: 'DEFAULT@SECLEVEL=0',
        });
      for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
        const { socket } = await at(version);
        expect((socket as tls.TLSSocket).getProtocol()).toBe(version);
        expect((socket as tls.TLSSocket).alpnProtocol).toBe('http/1.1');
        socket.destroy();
      }
      await expect(at('TLSv1.1')).rejects.toThrow(/protocol version|wrong version/);
    },
    SLOW_MS,
  );

  it(
    'shows itself only to those who trust its authority',
    async () => {
      const service = await start();
      const stranger = new Authority();
      await expect(RawClient.openTls(service.url, { ca: stranger.cert })).rejects.toThrow(
        /unable to verify|self-signed/,
      );
      stranger.remove();
    },
    SLOW_MS,
  );

  it.each([
    { what: 'the key is missing', without: 'TLS_KEY', says: 'TLS_CERT and TLS_KEY must be set together' },
    {
      what: 'the certificate is missing',
      without: 'TLS_CERT',
      says: 'TLS_CERT and TLS_KEY must be set together',
    },
    { what: 'they are no pair', without: '', says: 'TLS_CERT and TLS_KEY are not a pair: ' },
  ])(
    'does not start when $what',
    async ({ without, says }) => {
      const own = settings({ cert: authority.issue(NAMES).cert, key: authority.issue(NAMES).key });
      const service = Service.start({ DATABASE_URL: database.url, ...own, [without]: '' });
      expect(await service.exited()).toBe(1);
      expect(service.log).toContain(says);
    },
    SLOW_MS,
  );

  it(
    'makes room for who shakes hands when others take all connections and do not',
    async () => {
      const service = await start({ MAX_CONNECTIONS: '4', HEADERS_TIMEOUT_MS: '600000' });
      const silent: net.Socket[] = [];
      for (let n = 0; n < 4; n += 1) {
        const socket = net.connect(Number(new URL(service.url).port), '127.0.0.1');
        socket.on('error', () => undefined);
        await once(socket, 'connect');
        silent.push(socket);
      }
      expect(await shown(service)).toBe('first');
      for (const socket of silent) socket.destroy();
    },
    SLOW_MS,
  );

  it('does not start when a file cannot be read', async () => {
    const service = Service.start({ DATABASE_URL: database.url, ...settings() });
    expect(await service.exited()).toBe(1);
    expect(service.log).toMatch(/TLS_CERT cannot be read: ENOENT.*TLS_KEY cannot be read: ENOENT/);
  });
});
