import { fileURLToPath } from 'node:url';
import type { Database } from '../database.js';
import type { LoadEvent, LoadResult, LoadSpec } from '../load.js';
import { onLines, start, succeeded } from '../processes.js';
import type { CandidateName, Profile } from '../profiles.js';

/** The directory of the repository, as seen from dist/bench/candidates. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const LOAD = `${ROOT}dist/bench/load.js`;

/** What a candidate is asked to do; it knows itself where and by which generator. */
export type Task = Omit<LoadSpec, 'url' | 'store'>;

/** Called at the begin and at the end of the timed part. */
export interface Signals {
  begin: () => void;
  end: () => void;
}

/** One of those that are compared, with a database of its own. */
export abstract class Candidate {
  constructor(
    readonly name: CandidateName,
    readonly database: Database,
  ) {}

  /** The process that answers, null when the generator itself talks to the database. */
  get pid(): number | null {
    return null;
  }

  /** Stores what the profile begins with, and nothing else, of its threads only a share. Resolves with them. */
  async reload({ shape, stored }: Profile, share: number): Promise<Pick<Task, 'threads' | 'checkpoints'>> {
    const { checkpoints } = stored;
    const threads = Math.ceil(stored.threads * share);
    return { threads: await this.database.reload(shape, threads, checkpoints), checkpoints };
  }

  abstract run(task: Task, signals: Signals): Promise<LoadResult>;
}

/** Runs a load generator. @throws Error when it fails, which it does on a wrong answer */
export async function generate(
  command: string,
  args: string[],
  spec: LoadSpec,
  { begin, end }: Signals,
): Promise<LoadResult> {
  const child = start(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const results: LoadResult[] = [];
  onLines(child, (line) => {
    const event = JSON.parse(line) as LoadEvent;
    if (event.event === 'begin') begin();
    else if (event.event === 'end') end();
    else results.push(event.result);
  });
  child.stdin?.end(JSON.stringify(spec));
  await succeeded(child);
  const [result] = results;
  if (result === undefined) throw new Error(`${command} gave no result`);
  return result;
}
