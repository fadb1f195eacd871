/**
 * npm run bench:aging: what a process that holds a saver gains in memory over 100,000 operations, 1,000 event loops and 1,000 aborted
 * runs. Prints a table; each figure is one of six samples, from a fifth of the phase on.
 *
 *   --scale N   a part of it, such as 0.1; default 1
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ROOT } from '../candidates/candidate.js';
import { PYTHON, PythonSaver } from '../candidates/saver.js';
import { SERVICE, Served } from '../candidates/served.js';
import { Database } from '../database.js';
import { output } from '../processes.js';
import { runWithServer } from '../run.js';
import { type Aging, type AgingTask, agingTable } from './page.js';

const { values: given } = parseArgs({ options: { scale: { type: 'string', default: '1' } } });

const PROGRAMS: [language: string, program: string, args: string[]][] = [
  ['Node', process.execPath, ['--expose-gc', fileURLToPath(new URL('agents.js', import.meta.url))]],
  ['Python', PYTHON, [`${ROOT}bench/aging/agents.py`]],
];

await runWithServer('aging', async (serverUrl) => {
  const database = await Database.create(serverUrl, 'bench_aging');
  const service = await new Served('service', database, SERVICE).start();
  const samples = new Map<string, Aging[]>();
  for (const [language, program, args] of PROGRAMS) {
    if (language === 'Python' && !PythonSaver.isAvailable) {
      console.log('Python is left out: clients/python/run-tests makes its environment');
      continue;
    }
    const task: AgingTask = { serviceUrl: service.address, scale: Number(given.scale) };
    const printed = await output(program, args, { input: JSON.stringify(task) });
    samples.set(
      language,
      printed
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Aging),
    );
  }
  console.log(agingTable(samples));
});
