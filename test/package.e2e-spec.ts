import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { exchanges, meaning } from './support/capture.js';
import { environment, hasPackages, npm } from './support/npm.js';
import { aDataDir, cleanUp, postgresOf, Service } from './support/process.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const { version, scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
  scripts: Record<string, string>;
};

/** Packs what `npm test` has built: a build here would take it from the tests beside this one. */
function pack(destination: string): { tarball: string; files: string[] } {
  execFileSync(process.execPath, ['supply-chain/notices.mjs', 'THIRD-PARTY-NOTICES.txt'], { cwd: ROOT });
  const [packed] = JSON.parse(
    npm(ROOT, 'pack', '--json', '--ignore-scripts', '--pack-destination', destination),
  ) as [{ filename: string; files: { path: string }[] }];
  return {
    tarball: join(destination, packed.filename),
    files: packed.files.map(({ path }) => path).sort(),
  };
}

// The default DATA_DIR of the service that starts in it.
const dataDir = aDataDir({ name: '.data' });
const directory = dirname(dataDir);
const { tarball, files } = pack(directory);
afterAll(cleanUp);

describe('the packed service', () => {
  it('holds what runs, and nothing else', () => {
    const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts') && !path.endsWith('.spec.ts'))
      .map((path) => `dist/src/${path.replace(/ts$/, 'js')}`);
    const deprecated = readdirSync(join(ROOT, 'deprecated')).map((name) => `dist/src/${name}`);
    expect(files).toEqual(
      ['LICENSE', 'README.md', 'THIRD-PARTY-NOTICES.txt', 'package.json', ...sources, ...deprecated].sort(),
    );
    expect(scripts.prepack).toMatch(
      /run --silent build && node supply-chain\/notices\.mjs THIRD-PARTY-NOTICES\.txt$/,
    );
  });

  it('names every package that is installed beside it, with the text of its licence', () => {
    const notices = readFileSync(join(ROOT, 'THIRD-PARTY-NOTICES.txt'), 'utf8');
    expect(notices).toMatch(/^express@5\.\S+: MIT$/m);
    expect(notices).toContain('Copyright (c) 2009-2014 TJ Holowaychuk');
    expect(notices).toMatch(/^openssl \S+: OpenSSL$/m);
    expect(notices).not.toMatch(/^(jest|typescript|@langchain\/core)@/m);
  });
});

if (!hasPackages)
  console.warn('The packed service was NOT installed: npm has neither a registry nor a cache.');

(hasPackages ? describe : describe.skip)('the packed service, installed in an empty directory', () => {
  beforeAll(() => {
    writeFileSync(join(directory, 'package.json'), '{ "private": true }');
    npm(directory, 'install', '--prefer-offline', '--no-audit', '--no-fund', tarball);
  }, 300_000);

  const npx = (...args: string[]) =>
    execFileSync('npx', ['checkpoint-backend', ...args], {
      cwd: directory,
      env: environment,
      encoding: 'utf8',
    });

  it('tells its version and its commands', () => {
    expect(npx('--version')).toBe(`${version}\n`);
    expect(npx('--help')).toMatch(/^Usage: checkpoint-backend .*^ {2}serve .*^ {2}migrate .*^ {2}keys /ms);
  });

  it('serves with its own Postgres, and stops', async () => {
    const command = [join(directory, 'node_modules/.bin/checkpoint-backend')];
    const service = await Service.start({}, { command, cwd: directory }).ready();
    for (const { path, request, status, response } of exchanges) {
      const answer = await fetch(`${service.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: request,
      });
      expect([path, answer.status]).toEqual([path, status]);
      expect(meaning(await answer.text())).toBe(meaning(response ?? ''));
    }
    expect(await service.stop()).toBe(0);
    expect(postgresOf(dataDir)).toEqual([]);
  });

  it('serves until Ctrl-C, started by npx', async () => {
    const command = ['npx', 'checkpoint-backend'];
    const service = await Service.start({}, { command, cwd: directory, group: true }).ready();
    service.kill('SIGINT');
    await service.exited();
    expect(postgresOf(dataDir)).toEqual([]);
  });
});
