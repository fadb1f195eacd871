import { X509Certificate } from 'node:crypto';
import { chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { Settings } from '../src/config/env.js';
import { dataSourceOptions } from '../src/database/data-source.js';
import { connect } from '../src/database/server.js';
import { Cluster } from '../src/database/embedded/embedded-postgres.js';
import { Authority } from './support/certificates.js';
import { aDataDir, cleanUp, until } from './support/process.js';

let authority: Authority;
let stranger: Authority;
let files: string;
let cluster: Cluster;
let url: URL;
let isEncrypted = false;

/** Writes a file for a setting that takes a path. */
function aFile(name: string, text: string): string {
  const path = join(files, name);
  writeFileSync(path, text, { mode: 0o600 });
  return path;
}

/** Lets the server show a certificate of the authority for these names, and take connections with TLS alone. */
async function serveAs(names: string): Promise<void> {
  const { cert, key } = authority.issue(names);
  const { uid, gid } = statSync(cluster.directory);
  const config = {
    'server.crt': cert,
    'server.key': key,
    'root.crt': authority.cert,
    'pg_hba.conf': `hostssl all certified all cert\nhostssl all all all scram-sha-256\n`,
    'postgresql.auto.conf': "ssl = on\nssl_ca_file = 'root.crt'\n",
  };
  const admin = new pg.Client({
    connectionString: url.href,
    ssl: isEncrypted && { rejectUnauthorized: false },
  });
  await admin.connect();
  for (const [name, text] of Object.entries(config)) {
    const path = join(cluster.directory, name);
    writeFileSync(path, text, { mode: 0o600 });
    chownSync(path, uid, gid);
  }
  await admin.query('select pg_reload_conf()');
  await admin.end();
  isEncrypted = true;
  const { fingerprint256 } = new X509Certificate(cert);
  await until('the server shows it', async () => (await shown()) === fingerprint256);
}

/** The certificate that a connection gets; null when it gets none. */
async function shown(): Promise<string | null> {
  const client = new pg.Client({ connectionString: url.href, ssl: { rejectUnauthorized: false } });
  try {
    await client.connect();
    const { stream } = (client as unknown as { connection: { stream: TLSSocket } }).connection;
    return stream.getPeerCertificate().fingerprint256;
  } catch {
    return null; // it does not speak TLS yet
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Both ways that the service connects: why each fails, null when the connection is encrypted. */
async function faults(environment: Record<string, string>, at = url): Promise<(string | null)[]> {
  const settings = new Settings({ AUTH_MODE: 'none', DATABASE_URL: at.href, ...environment });
  const asked = 'select ssl from pg_stat_ssl where pid = pg_backend_pid()';
  const byItself = async () => {
    const client = await connect(settings, at.href);
    const { rows } = await client.query<{ ssl: boolean }>(asked);
    await client.end();
    return rows;
  };
  const ofThePool = async () => {
    const dataSource = await new DataSource(dataSourceOptions(settings, at.href)).initialize();
    const rows = await dataSource.query<{ ssl: boolean }[]>(asked);
    await dataSource.destroy();
    return rows;
  };
  return Promise.all(
    [byItself, ofThePool].map((way) =>
      way().then(
        ([row]) => (row?.ssl === true ? null : 'not encrypted'),
        (error: unknown) => (error as Error).message,
      ),
    ),
  );
}

function to(changes: Partial<URL>, query: Record<string, string> = {}): URL {
  const changed = Object.assign(new URL(url.href), changes);
  for (const [name, value] of Object.entries(query)) changed.searchParams.set(name, value);
  return changed;
}

const isEverywhere = (pattern: RegExp) => [expect.stringMatching(pattern), expect.stringMatching(pattern)];

beforeAll(async () => {
  files = mkdtempSync(join(tmpdir(), 'checkpoint-backend-database-tls-'));
  [authority, stranger] = [new Authority(), new Authority()];
  cluster = await Cluster.at({ dataDir: aDataDir(), settings: { fsync: 'off' } });
  url = new URL(cluster.url(await cluster.serve()));
  const admin = new pg.Client({ connectionString: url.href });
  await admin.connect();
  await admin.query('create role certified login');
  await admin.end();
  await serveAs('DNS:localhost,IP:127.0.0.1');
}, 60_000);
afterAll(async () => {
  await cleanUp();
  for (const each of [authority, stranger]) each.remove();
  rmSync(files, { recursive: true });
}, 60_000);

describe('DATABASE_SSL', () => {
  const trusting = () => ({ DATABASE_SSL: 'true', DATABASE_SSL_CA: aFile('ca.crt', authority.cert) });

  it('encrypts, to a server of the authority that is known', async () => {
    expect(await faults(trusting())).toEqual([null, null]);
    expect(await faults(trusting(), to({ hostname: 'localhost' }))).toEqual([null, null]);
  });

  it('refuses a server of another authority', async () => {
    const refused = isEverywhere(/unable to verify|self-signed|certificate signature failure/);
    expect(await faults({ DATABASE_SSL: 'true' })).toEqual(refused);
    const others = { DATABASE_SSL: 'true', DATABASE_SSL_CA: aFile('other.crt', stranger.cert) };
    expect(await faults(others)).toEqual(refused);
  });

  it('takes any server when told not to verify, still encrypted', async () => {
    expect(await faults({ DATABASE_SSL: 'true', DATABASE_SSL_VERIFY: 'false' })).toEqual([null, null]);
  });

  it('shows the certificate of the client', async () => {
    const { cert, key } = authority.issue('DNS:client', 'certified');
    const client = {
      ...trusting(),
      DATABASE_SSL_CERT: aFile('client.crt', cert),
      DATABASE_SSL_KEY: aFile('client.key', key),
    };
    const at = to({ username: 'certified', password: '' });
    expect(await faults(client, at)).toEqual([null, null]);
    expect(await faults(trusting(), at)).toEqual(isEverywhere(/certificate/));
  });

  it('refuses a server of another name', async () => {
    await serveAs('DNS:elsewhere');
    expect(await faults(trusting())).toEqual(
      isEverywhere(/does not match certificate|not in the cert's list/),
    );
    expect(await faults(trusting(), to({ hostname: 'localhost' }))).toEqual(
      isEverywhere(/does not match certificate/),
    );
    await serveAs('DNS:localhost,IP:127.0.0.1');
  });

  it.each([
    'sslmode=disable',
    'sslmode=no-verify',
    'sslmode=prefer&uselibpqcompat=true',
    'ssl=0',
    'sslrootcert=/dev/null',
  ])('is not weakened by what the URL says: %s', (query) => {
    expect(
      () => new Settings({ AUTH_MODE: 'none', DATABASE_URL: `${url.href}?${query}`, ...trusting() }),
    ).toThrow(/^DATABASE_URL must not have .* beside DATABASE_SSL/);
  });
});

it('leaves TLS to the URL where DATABASE_SSL is not set', async () => {
  expect(await faults({}, to({}, { sslmode: 'no-verify' }))).toEqual([null, null]);
  const sslrootcert = aFile('ca.crt', authority.cert);
  expect(await faults({}, to({}, { sslmode: 'verify-full', sslrootcert }))).toEqual([null, null]);
  expect(await faults({}, to({}, { sslmode: 'verify-full' }))).toEqual(
    isEverywhere(/unable to verify|self-signed/),
  );
  expect(await faults({})).toEqual(isEverywhere(/no encryption/));
});

it.each(['DATABASE_SSL_CA', 'DATABASE_SSL_CERT', 'DATABASE_SSL_KEY'])(
  '%s says nothing without DATABASE_SSL',
  (name) => {
    expect(
      () =>
        new Settings({
          AUTH_MODE: 'none',
          DATABASE_URL: url.href,
          [name]: aFile('some.pem', authority.cert),
        }),
    ).toThrow(`${name} has no effect without DATABASE_SSL=true`);
  },
);
