import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import type { Database } from '../database.js';
import type { LoadResult } from '../load.js';
import { end, onLines, start } from '../processes.js';
import type { CandidateName } from '../profiles.js';
import { Candidate, LOAD, ROOT, type Signals, type Task, generate } from './candidate.js';

export const SERVICE = `${ROOT}dist/src/main.js`;
export const YARDSTICK = `${ROOT}dist/bench/yardstick.js`;

/** A server that speaks the contract over HTTP. */
export class Served extends Candidate {
  private child: ChildProcess | undefined;
  private url = '';
  /** Rejects when the process ends. */
  private ended: Promise<never> = new Promise(() => undefined);

  constructor(
    name: CandidateName,
    database: Database,
    private readonly script: string,
    private readonly settings: Record<string, string> = {},
  ) {
    super(name, database);
  }

  override get pid(): number | null {
    return this.child?.pid ?? null;
  }

  /** Where it listens; empty before it does. */
  get address(): string {
    return this.url;
  }

  /** Starts it with a production's settings. */
  async start(): Promise<this> {
    const child = start(process.execPath, [this.script], {
      cwd: tmpdir(), // where no .env is
      env: {
        ...{ PATH: process.env.PATH, NODE_ENV: 'production', HOST: '127.0.0.1', PORT: '0' },
        ...{ AUTH_MODE: 'none', DATABASE_URL: this.database.url, ...this.settings },
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.child = child;
    this.ended = once(child, 'close').then(([code, signal]: unknown[]) => {
      throw new Error(`${this.script} ended with ${String(code ?? signal)}`);
    });
    this.ended.catch(() => undefined); // it may end when nobody waits for an answer
    this.url = await Promise.race([listening(child), this.ended]);
    return this;
  }

  /** The same on a process of its own. */
  another(): Promise<Served> {
    return new Served(this.name, this.database, this.script, this.settings).start();
  }

  async stop(): Promise<void> {
    if (this.child !== undefined) await end(this.child);
  }

  run(task: Task, signals: Signals): Promise<LoadResult> {
    const answered = generate(process.execPath, [LOAD], { ...task, store: 'http', url: this.url }, signals);
    return Promise.race([answered, this.ended]);
  }
}

/** Resolves with the URL that it prints. */
function listening(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    onLines(child, (line) => {
      const [, url] = /listening on (http:[^\s",]+)/.exec(line) ?? [];
      if (url !== undefined) resolve(url);
    });
  });
}
