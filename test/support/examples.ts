import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { freePort } from '../../src/database/embedded/embedded-postgres.js';
import { SETTING_NAMES } from '../../src/config/env.js';
import { startApp } from './app.js';
import { createDatabase } from './database.js';
import { type Block, type Page, ROOT } from './markdown.js';
import { isRunning, until } from './process.js';

/** Blocks with this mark need what a test does not have, such as a cluster. */
const NOT_RUN = 'no-run';
/** Where the service of the documentation listens; a page that starts several gives them ports of their own. */
const SERVICE_PORT = '5003';
const PORTS = /((?:127\.0\.0\.1|localhost):|PORT=)(50\d\d)\b/g;
/** What stands for the database of the reader. */
const DATABASE_OF_READER = /postgres(ql)?:\/\/[\w-]+:[\w-]+@host(:5432)?\/\w+/g;
/** A page that starts the service by itself gets none, and no database either. */
const STARTS_SERVICE =
  /(npm start|dist\/src\/main\.js( serve)?|npx checkpoint-backend( serve)?)( *\d?> *\S+)* *&( *#.*)?$/m;

export const examplesOf = (page: Page): Block[] =>
  page.blocks.filter(({ language, marks }) => language === 'sh' && !marks.includes(NOT_RUN));

/** Its examples install packages, or one is marked. */
export const isSlow = (page: Page): boolean =>
  examplesOf(page).some(({ text, marks }) => marks.includes('slow') || /\b(pip|npm) install\b/.test(text));

/** Of the tools that the examples call, those that are not there. */
export function missingTools(page: Page, has: (tool: string) => boolean): string[] {
  return ['psql', 'pg_dump', 'pg_restore', 'jq', 'openssl', 'python3'].filter(
    (tool) => examplesOf(page).some(({ text }) => new RegExp(`\\b${tool}\\b`).test(text)) && !has(tool),
  );
}

/**
 * Runs the examples of a page one after another in one shell, which stops at the first that fails. It works in a copy of the
 * checkout, beside a fresh service on a fresh database. Returns what is wrong; empty when the page is right.
 */
export async function faultsOf(page: Page, { timeoutMs }: { timeoutMs: number }): Promise<string[]> {
  const scratch = mkdtempSync(join(realpathSync(tmpdir()), 'checkpoint-backend-docs-'));
  chmodSync(scratch, 0o755); // an embedded Postgres may be another user's
  const database = await createDatabase();
  const blocks = examplesOf(page);
  const before = await namesOnServer();
  const startsItself = blocks.some(({ text }) => STARTS_SERVICE.test(text));
  const app = startsItself ? null : await startApp({ AUTH_MODE: 'none' }, database);
  const port = app === null ? String(await freePort()) : new URL(app.url).port;
  const ports = new Map([[SERVICE_PORT, port]]);
  for (const [, , other] of page.text.matchAll(PORTS)) {
    if (!ports.has(other!)) ports.set(other!, String(await freePort()));
  }
  try {
    const checkout = join(scratch, 'checkpoint-backend');
    copyCheckout(checkout);
    mkdirSync(join(scratch, 'tmp'));
    const inPlace = (text: string) =>
      text
        .replaceAll(DATABASE_OF_READER, database.url)
        .replaceAll(PORTS, (_, before: string, number: string) => `${before}${ports.get(number)}`)
        .replaceAll(/(?<![\w/])\/tmp\//g, `${scratch}/tmp/`);
    // Files: unlike a pipe they may be opened as /dev/stderr, and nobody waits for what is left running.
    const outputs = ['out', 'err'].map((name) => join(scratch, name)) as [string, string];
    const [out, err] = outputs.map((path) => openSync(path, 'a')) as [number, number];
    const shell = spawn('bash', ['-c', scriptOf(blocks.map(({ text }) => inPlace(text)))], {
      cwd: checkout,
      env: {
        ...environment(),
        ...(app !== null && { DATABASE_URL: database.url, AUTH_MODE: 'none' }),
        ...{ HOST: '127.0.0.1', PORT: port, URL: `http://127.0.0.1:${port}` },
      },
      stdio: ['ignore', out, err],
      detached: true, // so that what it leaves running can be ended with it
    });
    for (const file of [out, err]) closeSync(file);
    const end = setTimeout(() => {
      killGroup(shell.pid);
    }, timeoutMs);
    const [code] = (await once(shell, 'exit')) as [number | null];
    clearTimeout(end);
    killGroup(shell.pid);
    const [printed, errors] = outputs.map((path) => readFileSync(path, 'utf8').split(MARK).slice(1));
    return judge(page, blocks, code, printed ?? [], errors ?? [], inPlace);
  } finally {
    await app?.close();
    await stopPostgresBelow(scratch);
    await dropWhatIsNew(before);
    await database.drop();
    rmSync(scratch, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** Between the blocks, on standard output and error. */
const MARK = '\u0001block\n';
const STATUS = /\u0001status (\d+)\n/g;

/** curl tells the status of each answer on standard error, since it ends with 0 after a refusal, too. */
const scriptOf = (texts: string[]) => `
set -e -o pipefail
curl() {
  case " $* " in
    *' -w '* | *' --write-out '*) command curl "$@" ;;
    *) command curl -w '%{stderr}\u0001status %{http_code}\n' "$@" ;;
  esac
}
${texts.map((text) => `printf '${MARK}'; printf '${MARK}' >&2\n${text}\n`).join('')}`;

/** What examples write to is copied; all else is linked, with the dependencies and the build. */
function copyCheckout(directory: string): void {
  mkdirSync(directory);
  for (const path of ['clients', 'deploy', 'examples', 'openapi.json']) {
    cpSync(join(ROOT, path), join(directory, path), {
      recursive: true,
      filter: (source) => !/(^|[/\\])(node_modules|\.venv|__pycache__|\.\w+_cache)$/.test(source),
    });
  }
  for (const path of ['.env.example', 'bench', 'dist', 'docs', 'node_modules', 'src', 'tsconfig.json']) {
    symlinkSync(join(ROOT, path), join(directory, path));
  }
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  manifest.scripts.build = 'true';
  writeFileSync(join(directory, 'package.json'), JSON.stringify(manifest));
}

/** A reader's: without the settings of this process, with the server of the tests for psql. */
function environment(): NodeJS.ProcessEnv {
  const own = Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !SETTING_NAMES.includes(name) && !/^(NODE_|JEST_|TEST_|CHECKPOINT_|PG|npm_)/.test(name),
    ),
  );
  const { hostname, port, username, password } = new URL(process.env.TEST_SERVER_URL ?? '');
  return {
    ...own,
    PGHOST: hostname,
    PGPORT: port,
    PGUSER: decodeURIComponent(username),
    PGPASSWORD: decodeURIComponent(password),
  };
}

/** Embedded servers outlive the service that was killed. */
async function stopPostgresBelow(directory: string): Promise<void> {
  const servers = readdirSync(directory, { recursive: true })
    .filter((path) => String(path).endsWith('postmaster.pid'))
    .map((path) => Number.parseInt(readFileSync(join(directory, String(path)), 'utf8'), 10));
  for (const pid of servers.filter(isRunning)) {
    process.kill(pid, 'SIGQUIT');
    await until('the embedded Postgres is gone', () => !isRunning(pid));
  }
}

interface NamesOnServer {
  databases: string[];
  roles: string[];
}

/** Of what examples make there. Other suites work on the server at the same time. */
const namesOnServer = (): Promise<NamesOnServer> =>
  onServer(async (client) => {
    const of = async (sql: string) =>
      (await client.query<{ name: string }>(sql)).rows.map(({ name }) => name);
    return {
      databases: await of(`select datname as name from pg_database where datname like 'checkpoint%'`),
      roles: await of(`select rolname as name from pg_roles where rolname like 'checkpoint%'`),
    };
  });

async function dropWhatIsNew(before: NamesOnServer): Promise<void> {
  const after = await namesOnServer();
  await onServer(async (client) => {
    for (const name of after.databases.filter((one) => !before.databases.includes(one))) {
      await client.query(`drop database "${name}" with (force)`);
    }
    for (const name of after.roles.filter((one) => !before.roles.includes(one))) {
      await client.query(`drop role "${name}"`);
    }
  });
}

async function onServer<Result>(work: (client: pg.Client) => Promise<Result>): Promise<Result> {
  const client = new pg.Client({ connectionString: process.env.TEST_SERVER_URL });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function killGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL');
  } catch {
    // Nothing of it runs any more.
  }
}

function judge(
  page: Page,
  blocks: Block[],
  code: number | null,
  printed: string[],
  errors: string[],
  inPlace: (text: string) => string,
): string[] {
  const faults: string[] = [];
  printed.forEach((text, n) => {
    const { line, text: source, answer } = blocks[n]!;
    const place = `${page.name}, line ${line}`;
    const said = (errors[n] ?? '').replaceAll(STATUS, '');
    const end = `\n${source}\n${text}${said}`;
    if (n === printed.length - 1 && code !== 0) {
      faults.push(`${place}: ended with ${code ?? 'a signal'}${end}`);
      return;
    }
    for (const [, status] of (errors[n] ?? '').matchAll(STATUS)) {
      const isExpected =
        Number(status) < 400 || new RegExp(`\\b${status}\\b`).test(`${source}\n${answer?.text ?? ''}`);
      if (!isExpected) faults.push(`${place}: status ${status}${end}`);
    }
    if (answer !== null && !fits(inPlace(answer.text), answer.language, text)) {
      faults.push(`${place}: did not print what the page says${end}`);
    }
  });
  return faults;
}

/** An ellipsis stands for anything; times and ids of keys differ each time. White space counts inside of JSON's texts only. */
function fits(answer: string, language: string, printed: string): boolean {
  if (language !== 'json' && language !== 'text') return true;
  const bare = (text: string) =>
    text.replace(/("(?:[^"\\\n]|\\.)*")|\s+/g, (_, quoted?: string) => quoted ?? '');
  const varying = answer
    .replace(/\b\d{4}-\d\d-\d\dT[\d:.]+Z/g, TIME)
    .replace(/\b(?=\w*\d)(?=\w*[A-Z])(?=\w*[a-z])\w{12}\b/g, KEY_ID);
  const pattern = bare(varying)
    .replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
    .replaceAll(TIME, '[\\dT:.Z-]+')
    .replaceAll(KEY_ID, '\\w{12}')
    .replaceAll('…', '[^]*?');
  return new RegExp(pattern).test(bare(printed));
}

const TIME = '\u0002';
const KEY_ID = '\u0003';
