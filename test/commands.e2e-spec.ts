import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { SETTING_NAMES } from '../src/config/env.js';
import { VERSION } from '../src/config/version.js';
import { MIGRATION_NAMES } from '../src/database/data-source.js';
import { createDatabase, type TestDatabase } from './support/database.js';

const MAIN = fileURLToPath(new URL('../dist/src/main.js', import.meta.url));
/** Nobody listens there. */
const NOWHERE = 'postgresql://127.0.0.1:1/none';

let database: TestDatabase | undefined;
afterEach(async () => {
  await database?.drop();
  database = undefined;
});

const run = (args: string[], environment: Record<string, string> = {}) =>
  promisify(execFile)(process.execPath, [MAIN, ...args], {
    env: { PATH: process.env.PATH, DATABASE_URL: database?.url ?? NOWHERE, ...environment },
    cwd: tmpdir(),
  }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
    (error: unknown) => {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
      return { code, out: stdout, err: stderr };
    },
  );

it.each(['keys', 'migrate', 'tenants', 'healthcheck'])(
  'still has the file that manifests of 0.1 run for %s',
  async (name) => {
    const file = fileURLToPath(new URL(`../dist/src/${name}.js`, import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, [file, '--help'], { cwd: tmpdir() });
    expect(stdout).toContain(`Usage: checkpoint-backend ${name} `);
  },
);

it('says its version, and wrong usage by exit code 2', async () => {
  expect(await run(['--version'])).toEqual({ code: 0, out: `${VERSION}\n`, err: '' });
  expect(await run(['nonsense'])).toMatchObject({ code: 2, out: '' });
});

it.each([
  { args: ['migrate'] },
  { args: ['migrate', 'status'] },
  { args: ['keys', 'list'] },
  { args: ['tenants', 'list'] },
  { args: ['blobs', 'status'] },
  { args: ['healthcheck'], environment: { PORT: '1', AUTH_MODE: 'none' } },
])('$args fails where nobody listens, and says so', async ({ args, environment }) => {
  const { code, out, err } = await run(args, environment);
  expect([code, out]).toEqual([1, '']);
  expect(err).toMatch(/^error: .*ECONNREFUSED/);
});

it('names every setting that is wrong', async () => {
  const { code, err } = await run(['migrate'], { PORT: 'x', QUEUE_MAX: '-1' });
  expect(code).toBe(1);
  expect(err).toMatch(/PORT must be.*QUEUE_MAX must be/);
});

it('lists the settings in each of its forms, whatever the environment has', async () => {
  const of = (...args: string[]) => run(['settings', ...args], { PORT: 'x' });
  const listed = JSON.parse((await of('--json')).out) as { name: string; default: string; range: string }[];
  expect(listed.map(({ name }) => name)).toEqual(SETTING_NAMES);
  expect(listed[0]).toMatchObject({ name: 'PORT', default: '5003', range: '0 to 65535' });
  const [headings, first, ...rest] = (await of()).out.trim().split('\n');
  expect(headings).toMatch(/^NAME +DEFAULT +MEANING +RANGE$/);
  expect(first).toMatch(/^PORT +5003 +Port to listen on.* 0 to 65535$/);
  expect(rest).toHaveLength(SETTING_NAMES.length - 1);
  expect((await of('--format', 'env')).out).toMatch(/^#PORT=5003$/m);
  expect((await of('--format', 'markdown')).out).toMatch(/^# Settings\n[^]*^\| `PORT` \| `5003` \|/m);
});

it('migrates, says what the database has, and takes it back', async () => {
  database = await createDatabase({ like: 'empty' });
  const status = async () =>
    JSON.parse((await run(['migrate', 'status', '--json'])).out) as { name: string; isApplied: boolean }[];
  expect(await status()).toEqual(MIGRATION_NAMES.map((name) => ({ name, isApplied: false })));
  expect(await database.sql(`select from pg_tables where schemaname = 'public'`)).toEqual([]);
  expect((await run(['migrate'])).out.trim().split('\n')).toEqual(MIGRATION_NAMES);
  expect(await status()).toEqual(MIGRATION_NAMES.map((name) => ({ name, isApplied: true })));
  const last = MIGRATION_NAMES.at(-1)!;
  expect((await run(['migrate', 'revert'])).out).toBe(`Reverted ${last}\n`);
  expect((await run(['migrate', 'status'])).out).toMatch(new RegExp(`^${last} +no$`, 'm'));
});

// A pooler knows no other role than the one of the tests.
const itWithRoles = process.env.TEST_POOLER_URL === undefined ? it : it.skip;

itWithRoles('checks before a start that nothing is missing for the role that serves', async () => {
  database = await createDatabase({ like: 'empty' });
  expect(await run(['migrate', 'status', '--check'])).toMatchObject({
    code: 1,
    out: expect.stringContaining(MIGRATION_NAMES[0]!),
    err: `error: The database lacks migrations: ${MIGRATION_NAMES.join(', ')}\n`,
  });
  await run(['migrate']);
  const role = `guest_${randomUUID().replaceAll('-', '')}`;
  await database.sql(`create role ${role} login password 'p'`);
  try {
    const DATABASE_URL = Object.assign(new URL(database.url), { username: role, password: 'p' }).href;
    const check = (...more: string[]) =>
      run(['migrate', 'status', '--check', ...more], { DATABASE_URL, AUTH_MODE: 'keys' });
    expect((await check()).err).toMatch(/^error: The role lacks rights: .*select on "public"[.]checkpoints,/);
    await run(['migrate', '--grant-to', role]);
    expect(await check('--json')).toMatchObject({ code: 0, err: '' });
    await database.sql(`revoke update on api_keys from ${role}`);
    expect(await check()).toMatchObject({
      code: 1,
      err: 'error: The role lacks rights: update on "public".api_keys; see `checkpoint-backend migrate grants ROLE`\n',
    });
  } finally {
    await database.sql(`drop owned by ${role}`);
    await database.sql(`drop role ${role}`);
  }
});

it('prints nothing but its result on standard output, with an embedded Postgres too', async () => {
  const DATA_DIR = mkdtempSync(join(tmpdir(), 'checkpoint-backend-commands-'));
  chmodSync(DATA_DIR, 0o755); // else root's Postgres could not get in, and its data would be elsewhere
  try {
    const { code, out, err } = await run(['migrate', 'status', '--json'], { DATABASE_URL: '', DATA_DIR });
    expect([code, err]).toEqual([0, expect.stringContaining('Embedded Postgres')]);
    expect(JSON.parse(out)).toHaveLength(MIGRATION_NAMES.length);
  } finally {
    rmSync(DATA_DIR, { recursive: true });
  }
});

it('prints its tables as JSON, too', async () => {
  database = await createDatabase();
  expect(JSON.parse((await run(['keys', 'list', '--json'])).out)).toEqual([]);
  expect((await run(['keys', 'list'])).out).toMatch(/^ID +TENANT +NAME/);
  expect(JSON.parse((await run(['tenants', 'list', '--json'])).out)).toEqual([]);
});
