/**
 * npm run test:faults: agents at work on real processes while one fault after another is applied.
 *
 *   --report        writes docs/explain/reliability-raw.md
 *   --minutes N     a soak: the faults spread over so many minutes of one load, with samples of memory and latency
 *   --only NAME     the faults whose name has this in it
 *   --agents N      how many (32)
 *   --wait SECONDS  how long a fault lasts at least (3)
 */
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { FAULTS, type Fault, forgetContended } from './faults.js';
import { compareRows, type History } from './history.js';
import { checkAll, Load, type Window } from './load.js';
import { outlast } from './outlast.js';
import { type Row, type Sample, writeReport } from './report.js';
import { DATABASE, World } from './world.js';

const { values: options } = parseArgs({
  options: {
    report: { type: 'boolean', default: false },
    minutes: { type: 'string' },
    only: { type: 'string' },
    agents: { type: 'string', default: '32' },
    wait: { type: 'string', default: '3' },
  },
});
const AGENTS = Number(options.agents);
const WAIT_MS = Number(options.wait) * 1000;
const SAMPLE_MS = 10_000;
/** A run that takes so much longer than it should hangs. */
const LIMIT_MS = (10 + 2 * Number(options.minutes ?? 0)) * 60_000;

const failures: string[] = [];
const say = (line: string) => process.stdout.write(`${line}\n`);

/** Applies a fault to a load that goes on; resolves with what was seen, checks included. */
async function endure(world: World, fault: Fault, load: Load): Promise<Row> {
  const [service] = world.instances;
  load.take();
  await load.everyAgentAnswered();
  const retriesBefore = new Map(service?.retries);
  const residentBefore = service?.residentBytes ?? null;
  const begun = performance.now();
  await fault.apply(world, WAIT_MS);
  const healed = performance.now();
  await load.everyAgentAnswered();
  const recovered = performance.now();
  await delay(1000);
  const seen = load.take();
  const retries = new Map(
    [...(service?.retries ?? [])]
      .map(([cause, count]) => [cause, count - (retriesBefore.get(cause) ?? 0)] as const)
      .filter(([, count]) => count > 0),
  );
  if (fault.evidence !== undefined && ![...retries.keys()].some((cause) => fault.evidence?.test(cause))) {
    failures.push(
      `${fault.name}: did not reach the service, which sent nothing again for ${String(fault.evidence)}`,
    );
  }
  judge(fault, seen);
  return {
    name: fault.name,
    what: fault.what,
    requests: seen.requests,
    acknowledged: seen.acknowledged,
    errors: seen.errors,
    wrong: seen.wrong.length,
    retries,
    lost: 0,
    faultMs: healed - begun,
    recoveryMs: recovered - healed,
    longestMs: seen.longestMs,
    residentBefore,
    residentAfter: service?.residentBytes ?? null,
  };
}

function judge({ name, allowed }: Fault, seen: Window): void {
  for (const [error, count] of seen.errors) {
    if (allowed?.test(error) !== true) failures.push(`${name}: ${count} × ${error}`);
  }
  for (const wrong of seen.wrong.slice(0, 3)) failures.push(`${name}: a wrong answer, ${wrong}`);
}

/** Compares rows and answers with what was acknowledged. Resolves with the number of rows lost. */
async function verify(world: World, name: string, histories: History[]): Promise<number> {
  const { rows, lost, strange } = await compareRows(world.postgres, DATABASE, histories);
  const wrong = await checkAll(name, histories, world.route);
  if (lost.length > 0)
    failures.push(`${name}: ${lost.length} rows lost, such as ${lost[0]?.slice(0, 300) ?? ''}`);
  if (strange.length > 0)
    failures.push(`${name}: ${strange.length} strange rows, such as ${strange[0]?.slice(0, 300) ?? ''}`);
  for (const one of wrong.slice(0, 3)) failures.push(`${name}: afterwards ${one}`);
  say(
    `  ${rows} rows of ${histories.length} threads compared, ${lost.length} lost, ${strange.length} strange`,
  );
  return lost.length;
}

async function chosen(): Promise<Fault[]> {
  const faults: Fault[] = [];
  for (const fault of FAULTS) {
    if (options.only !== undefined && !fault.name.toLowerCase().includes(options.only.toLowerCase()))
      continue;
    const reason = (await fault.skip?.()) ?? null;
    if (reason === null) faults.push(fault);
    else say(`NOT DONE: ${fault.name}: ${reason}`);
  }
  return faults;
}

function describe(row: Row): void {
  const list = (counts: Map<string, number>) =>
    [...counts].map(([what, n]) => `${what || 'lost'} ${n}`).join(', ');
  say(
    `${row.name}: ${row.requests} requests, errors: ${list(row.errors) || '0'}, lost ${row.lost}, ` +
      `longest ${Math.round(row.longestMs)} ms, recovery ${Math.round(row.recoveryMs)} ms, ` +
      `sent again: ${list(row.retries) || '0'}`,
  );
}

/** Each fault on a load of its own, verified by itself and once more at the end. */
async function shortRun(world: World): Promise<Row[]> {
  const rows: Row[] = [];
  const all: History[] = [];
  for (const [n, fault] of (await chosen()).entries()) {
    const load = new Load(`fault-${n}`, AGENTS, world.route);
    await load.everyAgentAnswered();
    const row = await endure(world, fault, load);
    const histories = await load.stop();
    judge(fault, load.take());
    await forgetContended(world);
    row.lost = await verify(world, fault.name, histories);
    all.push(...histories);
    describe(row);
    rows.push(row);
  }
  say('Everything once more');
  await verify(world, 'at the end', all);
  return rows;
}

/** The faults one after another, over and over, spread over the time, on one load. */
async function soak(world: World, minutes: number): Promise<{ rows: Row[]; samples: Sample[] }> {
  const faults = await chosen();
  const begun = performance.now();
  const end = begun + minutes * 60_000;
  const pause = Math.min(60_000, Math.max(5000, (minutes * 60_000) / faults.length - 10_000));
  const samples: Sample[] = [];
  const rows: Row[] = [];
  const load = new Load('soak', AGENTS, world.route, true);
  let fault = '';
  const sampler = setInterval(() => {
    const latencies = Float64Array.from(load.latenciesSinceSample()).sort();
    const at = (share: number) => latencies[Math.floor(share * latencies.length)] ?? 0;
    samples.push({
      seconds: Math.round((performance.now() - begun) / 1000),
      residentBytes: world.instances[0]?.residentBytes ?? null,
      ownBytes: process.memoryUsage().rss,
      p50: at(0.5),
      p99: at(0.99),
      max: latencies.at(-1) ?? 0,
      requests: latencies.length,
      fault,
    });
    fault = '';
  }, SAMPLE_MS);
  const calm: Fault = { name: 'No fault', what: 'the load alone', apply: (_, wait) => delay(wait) };
  for (let n = 0; performance.now() < end; n += 1) {
    const next = faults[n % faults.length];
    if (next === undefined) break;
    const quiet = await endure(world, { ...calm, apply: () => delay(pause) }, load);
    add(rows, quiet);
    if (next.once && n >= faults.length) continue;
    fault = next.name;
    try {
      const row = await endure(world, next, load);
      describe(row);
      add(rows, row);
    } catch (error) {
      // The hour goes on, and fails at its end.
      failures.push(`${next.name}: could not be applied, ${String(error)}`);
    }
  }
  clearInterval(sampler);
  const histories = await load.stop();
  await forgetContended(world);
  const lost = await verify(world, 'after the soak', histories);
  for (const row of rows) row.lost = lost;
  return { rows, samples };
}

/** Sums up what was done several times. */
function add(rows: Row[], row: Row): void {
  const sum = rows.find(({ name }) => name === row.name);
  if (sum === undefined) {
    rows.push(row);
    return;
  }
  sum.times = (sum.times ?? 1) + 1;
  for (const key of ['requests', 'acknowledged', 'wrong'] as const) sum[key] += row[key];
  for (const key of ['errors', 'retries'] as const) {
    for (const [what, count] of row[key]) sum[key].set(what, (sum[key].get(what) ?? 0) + count);
  }
  for (const key of ['faultMs', 'recoveryMs', 'longestMs'] as const) sum[key] = Math.max(sum[key], row[key]);
  sum.residentAfter = row.residentAfter;
}

const begun = performance.now();
const world = await World.create();
const stop = async (reason: string) => {
  say(`FAILED: ${reason}`);
  await world.end();
  process.exit(1);
};
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(signal));
setTimeout(() => void stop(`it hangs, see ${world.logFile}`), LIMIT_MS).unref();
try {
  world.instances.push(await world.newInstance());
  while (world.routed.length === 0) await delay(50);
  let rows: Row[];
  let samples: Sample[] | null = null;
  if (options.minutes === undefined) {
    rows = await shortRun(world);
    if (options.only === undefined) {
      const row = await outlast(world, failures);
      describe(row);
      rows.push(row);
    }
  } else ({ rows, samples } = await soak(world, Number(options.minutes)));
  const seconds = (performance.now() - begun) / 1000;
  say(`${Math.round(seconds)} s; what the service logged beside its retries is in ${world.logFile}`);
  if (options.report) await writeReport(rows, samples, { agents: AGENTS, seconds });
} catch (error) {
  failures.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
} finally {
  await world.end();
}
for (const failure of failures) say(`FAILED: ${failure}`);
process.exit(failures.length > 0 ? 1 : 0);
