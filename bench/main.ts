/** Measures the candidates on the profiles, alternating, and reports; see the options below. */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { type Candidate, ROOT } from './candidates/candidate.js';
import { open, unavailable } from './candidates/open.js';
import { drawCharts } from './charts.js';
import { factsOf } from './facts.js';
import { inspect } from './database.js';
import { measure } from './part.js';
import { CANDIDATES, type CandidateName, chosenProfiles } from './profiles.js';
import { type Results, report } from './report.js';
import { runWithServer } from './run.js';

const REPORT = `${ROOT}docs/explain/benchmarks-raw.md`;

const { values: given } = parseArgs({
  options: {
    /** How often each profile runs on each candidate. */
    rounds: { type: 'string' },
    /** Length of a timed part. */
    seconds: { type: 'string' },
    /** Names, or beginnings of names such as `agent-step`. */
    profiles: { type: 'string' },
    candidates: { type: 'string' },
    /** Rows of the grown database. */
    rows: { type: 'string' },
    /** Runs everything once and shortly, to see that it works. */
    smoke: { type: 'boolean', default: false },
    /** Where the report goes; by default to docs/explain/benchmarks-raw.md when everything has run in full length, else nowhere. */
    output: { type: 'string' },
  },
});
const isComplete = !given.smoke && given.profiles === undefined && given.candidates === undefined;
const options = {
  rounds: positive('rounds', given.rounds, given.smoke ? 1 : 5),
  seconds: positive('seconds', given.seconds, given.smoke ? 0.3 : 4),
  rows: positive('rows', given.rows, given.smoke ? 30_000 : 10_000_000),
  warmUpSeconds: given.smoke ? 0.1 : 1.5,
  threads: given.smoke ? 0.1 : 1,
  profiles: chosenProfiles(given.profiles?.split(',') ?? null),
  candidates: chosenCandidates(
    given.candidates?.split(',') ?? CANDIDATES.filter((name) => name !== 'service-off'),
  ),
  output: given.output ?? (isComplete ? REPORT : null),
};

function positive(name: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  if (!(value > 0)) throw new Error(`--${name} must be a number above 0`);
  return value;
}

function chosenCandidates(names: string[]): CandidateName[] {
  return names.map((name) => {
    const candidate = CANDIDATES.find((known) => known === name);
    if (candidate === undefined) throw new Error(`No candidate ${name}; there are ${CANDIDATES.join(', ')}`);
    return candidate;
  });
}

async function run(serverUrl: string): Promise<void> {
  const { postmaster, version, hasLz4 } = await inspect(serverUrl);
  const facts = {
    ...(await factsOf(version, hasLz4)),
    'Rows of the grown database': options.rows.toLocaleString('en'),
    Rounds: `${options.rounds}, each timed part ${options.seconds} s after ${options.warmUpSeconds} s of warm-up`,
  };
  const candidates = options.candidates.filter((name) => {
    const reason = unavailable(name);
    if (reason !== null) console.log(`${name} is left out: ${reason}`);
    return reason === null;
  });
  if (candidates.includes('service')) candidates.push('small', 'grown');
  const opened = new Map<CandidateName, Candidate>();
  const results: Results = new Map();
  for (const profile of options.profiles) {
    const names = profile.candidates.filter((name) => candidates.includes(name));
    if (names.length > 0) results.set(profile, new Map(names.map((name) => [name, []])));
  }
  for (let round = 0; round < options.rounds; round += 1) {
    for (const [profile, samples] of results) {
      for (const name of rotated([...samples.keys()], round)) {
        const candidate = opened.get(name) ?? (await open(name, serverUrl, options.rows));
        opened.set(name, candidate);
        const sample = await measure(candidate, profile, options, postmaster);
        samples.get(name)?.push(sample);
        console.log(
          `round ${round + 1}: ${profile.name}, ${name}: ${sample.operationsPerSecond.toFixed(0)} operations/s`,
        );
      }
    }
  }
  const text = await format(report(results, facts, hasLz4), {
    ...(await resolveConfig(REPORT)),
    parser: 'markdown',
  });
  console.log(text);
  if (options.output !== null) writeFileSync(options.output, text);
  if (options.output === REPORT) drawCharts();
  console.log(`bench: ${results.size} profiles ran`);
}

/** Each round another candidate begins. */
function rotated<T>(items: T[], by: number): T[] {
  const first = by % items.length;
  return [...items.slice(first), ...items.slice(0, first)];
}

await runWithServer('bench', run);
