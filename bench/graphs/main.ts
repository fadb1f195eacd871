/**
 * npm run bench:graphs: what a superstep of a whole graph costs the process of its agents, with the in-memory saver, LangGraph's
 * Postgres saver and the saver of this service, which take turns. Writes docs/explain/benchmarks-graphs.md.
 *
 *   --rounds N      default 3
 *   --only TEXT     scenarios whose name has it
 *   --smoke         everything once and shortly, to see that it works; writes nothing
 *   --output FILE   where the page goes
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { ROOT } from '../candidates/candidate.js';
import { PYTHON, PythonSaver } from '../candidates/saver.js';
import { SERVICE, Served } from '../candidates/served.js';
import { Database, inspect } from '../database.js';
import { factsOf } from '../facts.js';
import { output } from '../processes.js';
import { runWithServer } from '../run.js';
import { graphsPage, type Samples } from './page.js';
import { isPython, nameOf, type Sample, SAVERS, type Scenario, SCENARIOS, type Task } from './scenarios.js';

const PAGE = `${ROOT}docs/explain/benchmarks-graphs.md`;
const { values: given } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    smoke: { type: 'boolean', default: false },
    output: { type: 'string' },
  },
});

async function run(serverUrl: string): Promise<void> {
  const { version, hasLz4 } = await inspect(serverUrl);
  const rounds = given.smoke ? 1 : Number(given.rounds);
  const scenarios = SCENARIOS.filter(
    (scenario) => nameOf(scenario).includes(given.only) && (PythonSaver.isAvailable || !isPython(scenario)),
  );
  if (!PythonSaver.isAvailable)
    console.log('Python is left out: clients/python/run-tests makes its environment');
  const databases = {
    python: await Database.create(serverUrl, 'bench_graphs_python'),
    node: await Database.create(serverUrl, 'bench_graphs_node'),
    service: await Database.create(serverUrl, 'bench_graphs_service'),
  };
  const service = await new Served('service', databases.service, SERVICE).start();
  const samples: Samples = new Map(
    scenarios.map((scenario) => [scenario, { memory: [], direct: [], service: [] }]),
  );
  for (let round = 0; round < rounds; round += 1) {
    for (const [scenario, own] of samples) {
      const direct = isPython(scenario) ? databases.python : databases.node;
      for (const saver of [...SAVERS.slice(round % 3), ...SAVERS.slice(0, round % 3)]) {
        const sample = await measure({
          ...{
            ...scenario,
            saver,
            databaseUrl: direct.url,
            serviceUrl: service.address,
            warmUp: warmUpOf(scenario),
          },
          ...(given.smoke && { supersteps: 4, warmUp: 1 }),
        });
        own[saver].push(sample);
        const { wallMs, cpuMs } = sample;
        console.log(
          `round ${round + 1}: ${nameOf(scenario)}, ${saver}: ${wallMs.toFixed(2)} ms, CPU ${cpuMs.toFixed(2)} ms`,
        );
      }
      for (const database of Object.values(databases)) await empty(database);
    }
  }
  const facts = { ...(await factsOf(version, hasLz4)), Rounds: String(rounds) };
  const page = await format(graphsPage(samples, facts), {
    ...(await resolveConfig(PAGE)),
    parser: 'markdown',
  });
  console.log(page);
  const isComplete = !given.smoke && given.only === '' && PythonSaver.isAvailable;
  const file = given.output ?? (isComplete ? PAGE : null);
  if (file !== null) writeFileSync(file, page);
  console.log(`bench: ${scenarios.length} scenarios of graphs ran`);
}

/** Supersteps of each agent's run that is not measured: V8 compiles a graph's code over some hundred of them. */
function warmUpOf({ agents }: Scenario): number {
  return Math.ceil(200 / agents) + 2;
}

/** @throws Error when a run did not end as it should */
async function measure(task: Task): Promise<Sample> {
  const [program, script] = isPython(task)
    ? [PYTHON, `${ROOT}bench/graphs/agents.py`]
    : [process.execPath, fileURLToPath(new URL('agents.js', import.meta.url))];
  return JSON.parse(await output(program, [script], { input: JSON.stringify(task) })) as Sample;
}

/** Every scenario begins with empty tables, and without the work of those before. */
async function empty(database: Database): Promise<void> {
  const tables = ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes'];
  const [found] = await database.query<{ name: string | null }>(`select to_regclass('checkpoints') as name`);
  if (found?.name == null) return;
  await database.query(`truncate ${tables.join(', ')}`);
  await database.settle();
}

await runWithServer('graphs', run);
