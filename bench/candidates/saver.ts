import { existsSync } from 'node:fs';
import type { Database } from '../database.js';
import type { LoadResult } from '../load.js';
import { pieces, stepsOf } from '../payload.js';
import { output } from '../processes.js';
import { Candidate, LOAD, ROOT, type Signals, type Task, generate } from './candidate.js';

export const PYTHON = `${ROOT}clients/python/.venv/bin/python`;
const SCRIPT = `${ROOT}bench/python_saver.py`;

/** LangGraph.js's saver; the load generator calls it. */
export class JavaScriptSaver extends Candidate {
  constructor(database: Database) {
    super('javascript', database);
  }

  run(task: Task, signals: Signals): Promise<LoadResult> {
    return generate(
      process.execPath,
      [LOAD],
      { ...task, store: 'javascript', url: this.database.url },
      signals,
    );
  }
}

/** Python's saver; the script is the load generator, and takes the steps ready made. */
export class PythonSaver extends Candidate {
  constructor(database: Database) {
    super('python', database);
  }

  /** Whether there is the environment that `clients/python/run-tests` makes. */
  static readonly isAvailable = existsSync(PYTHON);

  /** Lets the saver make its tables. */
  async setUp(): Promise<this> {
    const env = { PATH: process.env.PATH, DATABASE_URL: this.database.url };
    await output(PYTHON, [SCRIPT, 'setup'], { env });
    return this;
  }

  static async versions(): Promise<string> {
    return (await output(PYTHON, [SCRIPT, 'versions'])).trim();
  }

  run(task: Task, signals: Signals): Promise<LoadResult> {
    const { shape, walk, checkpoints } = task;
    const step = stepsOf(shape);
    const numbers =
      walk.kind === 'new threads' ? Array.from({ length: walk.steps }, (_, n) => n) : [checkpoints - 1];
    const spec = {
      ...{ ...task, store: 'python' as const, url: this.database.url },
      steps: numbers.map(step),
      pieces: pieces(shape.blobBytes).map((piece) => piece.toString('base64')),
    };
    return generate(PYTHON, [SCRIPT, 'load'], spec, signals);
  }
}
