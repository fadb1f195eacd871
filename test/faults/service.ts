import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, readFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AUTH_MODE } from './key.js';

const MAIN = resolve('dist/src/main.js');
const running = new Set<ChildProcess>();

/** The service, in a process of its own that can be killed and started again on the same port. */
export class Service {
  private child: ChildProcess | undefined;
  /** Lines of its log by the SQLSTATE or the socket's error that made it send a statement again. */
  readonly retries = new Map<string, number>();

  constructor(
    private readonly port: number,
    private readonly environment: Record<string, string>,
    private readonly logFile: string,
  ) {}

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get isRunning(): boolean {
    return this.child !== undefined && running.has(this.child);
  }

  /** Resolves when it is ready. @throws Error when it ends instead */
  async start(): Promise<void> {
    const child = spawn(process.execPath, [MAIN], {
      cwd: tmpdir(), // where no .env is
      env: {
        ...{
          PATH: process.env.PATH,
          HOST: '127.0.0.1',
          PORT: String(this.port),
          LOG_LEVEL: 'debug',
          AUTH_MODE,
        },
        ...this.environment,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.child = child;
    running.add(child);
    child.once('close', () => running.delete(child));
    createInterface({ input: child.stdout }).on('line', (line) => {
      const again = /sent again in \d+ ms: (?:([0-9A-Z]{5}|E[A-Z_]+) )?/.exec(line);
      const cause = again?.[1] ?? '';
      if (again !== null) this.retries.set(cause, (this.retries.get(cause) ?? 0) + 1);
      else if (!line.startsWith('{"level":"debug"')) appendFileSync(this.logFile, `${line}\n`);
    });
    while (!(await this.isReady())) {
      if (!running.has(child)) throw new Error(`The service ended, see ${this.logFile}`);
      await delay(50);
    }
  }

  /** What `/health/ready` says; false also when nobody answers. */
  async isReady(): Promise<boolean> {
    return new Promise((resolve) => {
      const request = http.get(`${this.url}/health/ready`, { agent: false, timeout: 5000 }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      });
      request.on('timeout', () => request.destroy());
      request.on('error', () => {
        resolve(false);
      });
    });
  }

  /** Resolves with the exit code once the process is gone. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const { child } = this;
    if (child === undefined || !running.has(child)) return null;
    const closed = once(child, 'close');
    child.kill(signal);
    const [code] = (await closed) as [number | null];
    return code;
  }

  /** Resident memory; null without /proc, or when it does not run. */
  get residentBytes(): number | null {
    try {
      const status = readFileSync(`/proc/${this.child?.pid ?? 0}/status`, 'utf8');
      return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
    } catch {
      return null;
    }
  }
}

/** Ends every service at once. */
export function killServices(): void {
  for (const child of running) child.kill('SIGKILL');
}
