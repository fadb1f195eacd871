import { existsSync, readFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { ROOT } from './candidates/candidate.js';
import { PythonSaver } from './candidates/saver.js';
import { output } from './processes.js';

/** What a reader needs to know of where the figures were made. */
export async function factsOf(postgresVersion: string, hasLz4: boolean): Promise<Record<string, string>> {
  const [cpu] = cpus();
  return {
    Machine: `${cpu?.model ?? 'unknown CPU'}, ${cpus().length} cores, ${(totalmem() / 2 ** 30).toFixed(1)} GiB`,
    Commit: await commit(),
    Node: process.version,
    Postgres: `${postgresVersion}, ${hasLz4 ? 'with' : 'without'} lz4`,
    ...Object.fromEntries(
      ['pg', '@langchain/langgraph-checkpoint-postgres', 'undici'].map((name) => [name, versionOf(name)]),
    ),
    Python: PythonSaver.isAvailable ? await PythonSaver.versions() : 'not measured',
  };
}

async function commit(): Promise<string> {
  if (!existsSync(`${ROOT}.git`)) return 'unknown';
  const [hash, changes] = await Promise.all([
    output('git', ['-C', ROOT, 'rev-parse', '--short', 'HEAD']),
    output('git', ['-C', ROOT, 'status', '--porcelain']),
  ]);
  return hash.trim() + (changes === '' ? '' : ', with changes');
}

function versionOf(name: string): string {
  const text = readFileSync(`${ROOT}node_modules/${name}/package.json`, 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
