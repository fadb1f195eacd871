// npm run test:upgrade: what a rolling upgrade needs, see docs/how-to/upgrade.md. The suites of the operations of this release on
// the next one's schema; then, where git has the previous release, its suites on this one's schema, and both at once.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const OPERATIONS = [
  ...['capture', 'copy-thread', 'delete-thread', 'delta-channel-history', 'get-tuple', 'http'],
  ...['list', 'merging', 'outage', 'properties', 'prune', 'put', 'put-writes', 'refusals'],
].map((name) => `${name}.e2e-spec.ts`);
/** Compares whole rows with those of a saver, which knows no column of a next release. */
const ON_ITS_OWN_SCHEMA = ['interchange.e2e-spec.ts'];
const { commit } = JSON.parse(readFileSync('test/fixtures/previous-release.json', 'utf8'));

function jest(directory, files, environment = {}) {
  const known = readdirSync(join(directory, 'test'));
  const paths = files.filter((file) => known.includes(file)).map((file) => `/test/${file}`);
  const { status } = spawnSync(
    process.execPath,
    [
      ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
      ...['--selectProjects', 'fast', '--testPathPatterns', ...paths],
    ],
    { cwd: directory, stdio: 'inherit', env: { ...process.env, ...environment } },
  );
  if (status !== 0) process.exitCode = 1;
}

/** A shallow clone lacks it, and may fetch it. */
function hasCommit() {
  const git = (...args) => spawnSync('git', args, { stdio: 'ignore' }).status === 0;
  const has = () => git('cat-file', '-e', `${commit}^{commit}`);
  return has() || (git('fetch', '--quiet', '--depth=1', 'origin', commit) && has());
}

/** The previous release, built with the packages of this one, in a directory whose template this release migrates, too. */
function buildPrevious(directory) {
  const archive = execFileSync('git', ['archive', commit], { maxBuffer: 2 ** 30 });
  execFileSync('tar', ['-x', '-C', directory], { input: archive });
  symlinkSync(resolve('node_modules'), join(directory, 'node_modules'));
  execFileSync(process.execPath, [resolve('node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'], {
    cwd: directory,
    stdio: 'inherit',
  });
  const support = join(directory, 'test/support');
  renameSync(join(support, 'global-setup.mjs'), join(support, 'own-setup.mjs'));
  const dist = (path) => pathToFileURL(resolve('dist/src', path)).href;
  writeFileSync(
    join(support, 'global-setup.mjs'),
    `import setup from './own-setup.mjs';
import { Settings } from '${dist('config/env.js')}';
import { migrate } from '${dist('database/migrate.js')}';

export default async function setUp() {
  await setup();
  const url = new URL(process.env.TEST_SERVER_URL);
  url.pathname = '/' + process.env.TEST_TEMPLATE;
  const ran = await migrate(new Settings({ AUTH_MODE: 'none', DATABASE_URL: url.href }), url.href);
  console.log('migrated by this release: ' + ran.join(', '));
}
`,
  );
}

console.log("\nThis release on the next one's schema");
jest('.', OPERATIONS, { TEST_MIGRATION: 'test/fixtures/next-release.sql' });
if (hasCommit()) {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-previous-'));
  try {
    buildPrevious(directory);
    console.log(`\nThe previous release, ${commit.slice(0, 7)}, on this one's schema`);
    jest(directory, [...OPERATIONS, ...ON_ITS_OWN_SCHEMA]);
    console.log('\nBoth at once');
    jest('.', ['upgrade.e2e-spec.ts'], { PREVIOUS_RELEASE: join(directory, 'dist/src/main.js') });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
} else {
  console.log(`\nNOT RUN: the previous release's tests; git has no ${commit}, and origin does not give it.`);
}
