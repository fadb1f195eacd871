// npm run test:postgres15, npm run test:pgbouncer: the suites over HTTP on Debian's Postgres 15, directly or through
// PgBouncer in transaction mode. PGBOUNCER names another binary than the one in PATH. Further arguments go to Jest.
import { execFileSync, spawnSync } from 'node:child_process';
import { program, startPgbouncer, startPostgres } from './servers.mjs';

/** These start an embedded server, or no database at all. */
const NOT_HERE = ['test/processes', 'test/swagger-ui', 'test/kubernetes', 'test/upgrade'];
/** From here on PgBouncer keeps named statements unless it is told otherwise. */
const KEEPS_STATEMENTS = [1, 24];

const [which, ...jestArguments] = process.argv.slice(2);
const bin = process.env.POSTGRES_BIN ?? '/usr/lib/postgresql/15/bin';
const pgbouncer =
  process.env.PGBOUNCER ?? program('pgbouncer', [...process.env.PATH.split(':'), '/usr/sbin']);
const missing = [
  ...(program('postgres', [bin]) === null
    ? [`Postgres in ${bin} (Debian: apt-get install postgresql-15)`]
    : []),
  ...(which === 'pgbouncer' && pgbouncer === null ? ['pgbouncer (Debian: apt-get install pgbouncer)'] : []),
];
if (missing.length > 0) {
  console.log(`NOT RUN: npm run test:${which} needs ${missing.join(' and ')}.`);
  process.exit(0);
}

const started = [];
let status = 1;
try {
  const postgres = await startPostgres(bin);
  started.unshift(postgres);
  const environment = { ...process.env, TEST_DATABASE_URL: postgres.url };
  // What needs merging or a session of its own is left out where there is none.
  const left = [...NOT_HERE];
  console.log(`On ${execFileSync(`${bin}/postgres`, ['--version'], { encoding: 'utf8' }).trim()}`);
  if (which === 'pgbouncer') {
    const pooler = await startPgbouncer(pgbouncer, postgres.url);
    started.unshift(pooler);
    const version = execFileSync(pgbouncer, ['--version'], { encoding: 'utf8' }).split('\n')[0];
    const [major, minor] = version.match(/\d+/g).map(Number);
    const keeps = major > KEEPS_STATEMENTS[0] || minor >= KEEPS_STATEMENTS[1];
    console.log(`Through ${version} in transaction mode, ${keeps ? 'with' : 'without'} named statements`);
    environment.TEST_POOLER_URL = pooler.url;
    if (!keeps) {
      environment.DATABASE_PREPARED = 'false';
      environment.TEST_SETTINGS = JSON.stringify({ DATABASE_PREPARED: 'false' });
      left.push('test/merging', 'test/plans');
    }
  }
  ({ status } = spawnSync(
    process.execPath,
    [
      ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
      // PgBouncer is one process with few connections: two suites at once would measure each other's load.
      ...(which === 'pgbouncer' ? ['--maxWorkers=1'] : []),
      ...['--selectProjects', 'fast', '--testPathIgnorePatterns', '/node_modules/', '\\.spec\\.ts$', ...left],
      '--',
      ...jestArguments,
    ],
    { stdio: 'inherit', env: environment },
  ));
} finally {
  for (const server of started) await server.stop();
}
process.exit(status ?? 1);
