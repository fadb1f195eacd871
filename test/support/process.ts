import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const { DATABASE_PREPARED } = process.env;
const POLL_MS = 20;
const PATIENCE_MS = 60_000;

export interface Reply {
  status: number;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- a test asserts its shape
  json: any;
}

interface StartOptions {
  uid?: number;
  gid?: number;
  main?: string;
  command?: string[];
  cwd?: string;
  ca?: string;
  group?: boolean;
}

/** The service in a process of its own. */
export class Service {
  private output = '';
  private hasClosed = false;

  private constructor(
    private readonly child: ChildProcess,
    private readonly ca: string | undefined,
    private readonly hasGroup: boolean,
  ) {
    child.once('close', () => (this.hasClosed = true));
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
  }

  /**
   * Starts it on a free port; of this process's own settings only DATABASE_PREPARED reaches it, which is about the server.
   * `ca` is to know it by, with TLS. `command` starts another build of it; `group` puts it in a group of processes that signals
   * go to, as a terminal does.
   */
  static start(
    environment: Record<string, string>,
    {
      main = MAIN,
      command: [program = '', ...args] = [process.execPath, main],
      cwd = tmpdir(), // where no .env is
      ca,
      group = false,
      ...identity
    }: StartOptions = {},
  ): Service {
    const child = spawn(program, args, {
      cwd,
      env: {
        ...{
          PATH: process.env.PATH,
          HOST: '127.0.0.1',
          PORT: '0',
          SHUTDOWN_DELAY_MS: '0',
          AUTH_MODE: 'none',
          ...(DATABASE_PREPARED !== undefined && { DATABASE_PREPARED }),
        },
        ...environment,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: group,
      ...identity,
    });
    const service = new Service(child, ca, group);
    services.add(service);
    return service;
  }

  /** Everything that it has written to its standard output and error. */
  get log(): string {
    return this.output;
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  get url(): string {
    const [, url] = /listening on (https?:[^\s",]+)/.exec(this.output) ?? [];
    if (url === undefined) throw new Error(`It does not listen: ${this.output}`);
    return url;
  }

  get hasExited(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  /** Resolves when it says that it is ready. @throws Error with its log when it ends instead */
  async ready(): Promise<this> {
    await until('the service is ready', async () => {
      if (this.hasExited) throw new Error(`It ended: ${this.output}`);
      return this.output.includes('listening on ') && (await this.get('/health/ready')).status === 200;
    });
    return this;
  }

  kill(signal: NodeJS.Signals): void {
    if (this.hasGroup && !this.hasClosed) process.kill(-this.child.pid!, signal);
    else this.child.kill(signal);
  }

  /** Resolves with its exit code, null when a signal ended it, once all of its log has arrived. */
  async exited(): Promise<number | null> {
    await until('the service has ended', () => this.hasClosed);
    return this.child.exitCode;
  }

  async stop(): Promise<number | null> {
    this.kill('SIGTERM');
    return this.exited();
  }

  post(operation: string, body: object | string, agent?: http.Agent): Promise<Reply> {
    return send(
      `${this.url}/checkpoints/${operation}`,
      typeof body === 'string' ? body : JSON.stringify(body),
      agent,
      this.ca,
    );
  }

  get(path: string): Promise<Reply> {
    return send(`${this.url}${path}`, undefined, false, this.ca);
  }
}

/** One request, without an agent on a connection of its own. Rejects with the socket's error. */
async function send(
  url: string,
  body?: string,
  agent: http.Agent | false = false,
  ca?: string,
): Promise<Reply> {
  const request = (ca === undefined ? http : https).request(url, {
    agent,
    ...(ca !== undefined && { ca }),
    method: body === undefined ? 'GET' : 'POST',
    headers: { 'content-type': 'application/json' },
  });
  request.end(body);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk as string;
  return { status: response.statusCode ?? 0, json: text === '' ? undefined : JSON.parse(text) };
}

/** Polls until the condition holds; an exception that it throws ends the wait. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`Waited in vain until ${what}`);
    await delay(POLL_MS);
  }
}

/** A new DATA_DIR; `closed` puts it below a directory that only its owner may enter, and `name` below one of its own. */
export function aDataDir({ closed = false, name = '' } = {}): string {
  const directory = mkdtempSync(join(realpathSync(tmpdir()), 'checkpoint-backend-processes-'));
  // Else root's Postgres could not get in, and its data would be elsewhere.
  if (!closed) chmodSync(directory, 0o755);
  const dataDir = join(directory, closed ? 'data' : name);
  dataDirs.set(dataDir, directory);
  return dataDir;
}

/** Where the embedded Postgres keeps the files of a DATA_DIR that was given to the service. */
export function clusterOf(dataDir: string): string {
  const pointer = join(dataDir, 'location');
  return join(existsSync(pointer) ? readFileSync(pointer, 'utf8') : dataDir, 'postgres');
}

/** The embedded server of the directory; null when its last one stopped properly. */
export function postmasterOf(dataDir: string): number | null {
  const file = join(clusterOf(dataDir), 'postmaster.pid');
  return existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : null;
}

/** Every process that works in the directory: the embedded server and its children. Without /proc, the server alone. */
export function postgresOf(dataDir: string): number[] {
  if (!existsSync('/proc/self/cwd')) {
    const postmaster = postmasterOf(dataDir);
    return postmaster !== null && isRunning(postmaster) ? [postmaster] : [];
  }
  const cluster = clusterOf(dataDir);
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && workingDirectory(name) === cluster)
    .map(Number);
}

/** Null when the process has ended, or is another user's. */
function workingDirectory(pid: string): string | null {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return null;
  }
}

export function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

const services = new Set<Service>();
/** Each with what is to be removed. */
const dataDirs = new Map<string, string>();

/** Ends every process that the test started, embedded servers too, and removes their data. */
export async function cleanUp(): Promise<void> {
  for (const service of services) {
    service.kill('SIGKILL');
    await service.exited();
  }
  services.clear();
  for (const [dataDir, directory] of dataDirs) {
    await until('the embedded Postgres is gone', () => {
      const running = postgresOf(dataDir);
      const postmaster = postmasterOf(dataDir);
      if (postmaster !== null && running.includes(postmaster)) process.kill(postmaster, 'SIGQUIT');
      return running.length === 0;
    });
    const base = dirname(clusterOf(dataDir));
    for (const path of [base, directory]) rmSync(path, { recursive: true, force: true });
    if (base !== dataDir && readdirSync(dirname(base)).length === 0) rmdirSync(dirname(base));
  }
  dataDirs.clear();
}
