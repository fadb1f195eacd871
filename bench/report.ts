import { type Measure, MEASURES } from './measures.js';
import type { Sample } from './part.js';
import { baselineOf, type CandidateName, type Profile } from './profiles.js';
import { type Bound, targets } from './targets.js';

/** Of each profile and candidate the samples, one a round. */
export type Results = Map<Profile, Map<CandidateName, Sample[]>>;

const NAMES: Record<CandidateName, string> = {
  service: 'service',
  'service-off': 'service, fast path off',
  keys: 'service, keys of two tenants',
  E: 'E',
  javascript: 'LangGraph.js PostgresSaver',
  python: 'Python AsyncPostgresSaver',
  pgbench: 'pgbench',
  small: 'service, small thread',
  grown: 'service, grown thread',
};

/** Over the rounds; null when no round has a value. */
interface Spread {
  median: number;
  min: number;
  max: number;
}

function spreadOf(values: (number | null)[]): Spread | null {
  const sorted = values.filter((value) => value !== null).toSorted((a, b) => a - b);
  const [min, max] = [sorted.at(0), sorted.at(-1)];
  if (min === undefined || max === undefined) return null;
  const middle = sorted.length / 2;
  const median = ((sorted[Math.ceil(middle - 1)] ?? min) + (sorted[Math.floor(middle)] ?? max)) / 2;
  return { median, min, max };
}

/** The measure of one candidate over that of another, each ratio within one round. */
function ratioOf(measure: Measure, samples: Sample[], others: Sample[]): Spread | null {
  return spreadOf(
    samples.map((sample, round) => {
      const [value, other] = [sample, others[round]].map((one) => (one ? MEASURES[measure](one) : null));
      return value && other ? value / other : null;
    }),
  );
}

/** The whole page, in Markdown. */
export function report(results: Results, facts: Record<string, string>, hasLz4: boolean): string {
  const profiles = [...results].map(([profile]) => profile);
  const samples = (profile: Profile, candidate: CandidateName) => results.get(profile)?.get(candidate) ?? [];
  const measures = Object.keys(MEASURES) as Measure[];
  const rows = profiles.flatMap((profile) =>
    [...(results.get(profile) ?? [])].map(([candidate, own]) => ({ profile, candidate, own })),
  );
  const steal = spreadOf(rows.flatMap(({ own }) => own.map((sample) => sample.steal && sample.steal * 100)));
  return `# Benchmarks: raw results

[Benchmarks](benchmarks.md) says what these tables mean. \`npm run bench\` writes this page anew; \`bench/main.ts\` lists its
options. Each figure is the median over the rounds, with
the least and the greatest in brackets; a ratio is made within a round. In each round the candidates take turns, in another
order, each on a database of its own on one server, which is filled anew before every part. Answers are compared with what
was stored, and the rows with what was acknowledged.

E is the yardstick: a bare \`node:http\` and \`pg\` server with one prepared statement per operation (\`bench/yardstick.ts\`).
LangGraph's savers and pgbench talk to the database directly, without HTTP; they are their own load generators.

${table(['', ''], [...Object.entries(facts), ['Steal', `${shown(steal)} % of the machine's time`]])}

## Targets

${table(
  ['profile', 'measure', 'of', 'target', 'measured', ''],
  targets(hasLz4).flatMap((target) => {
    const profile = profiles.find(({ name }) => name === target.profile);
    if (profile === undefined) return [];
    const { measure, candidate, versus, bound } = target;
    const own = samples(profile, candidate);
    const measured =
      versus === null
        ? spreadOf(own.map(MEASURES[measure]))
        : ratioOf(measure, own, samples(profile, versus));
    const of = versus === null ? NAMES[candidate] : `${NAMES[candidate]} / ${NAMES[versus]}`;
    const wanted = 'atLeast' in bound ? `≥ ${bound.atLeast}` : `≤ ${bound.atMost}`;
    return [[profile.name, measure, of, wanted, shown(measured), verdict(bound, measured)]];
  }),
)}

## Figures

CPU is per operation, memory that of the service at the end of the part and at most since its start.

${table(
  ['profile', 'agents', 'candidate', ...measures],
  rows.map(({ profile, candidate, own }) => [
    ...[profile.name, String(profile.agents), NAMES[candidate]],
    ...measures.map((measure) => shown(spreadOf(own.map(MEASURES[measure])))),
  ]),
)}

## Ratios

To E; of growth to the small thread.

${table(
  ['profile', 'candidate', ...measures],
  rows
    .filter(({ profile, candidate }) => candidate !== baselineOf(profile))
    .map(({ profile, candidate, own }) => [
      ...[profile.name, NAMES[candidate]],
      ...measures.map((measure) => shown(ratioOf(measure, own, samples(profile, baselineOf(profile))))),
    ]),
)}
`;
}

function verdict(bound: Bound, measured: Spread | null): string {
  if (measured === null) return 'not measured';
  const isMet = 'atLeast' in bound ? measured.median >= bound.atLeast : measured.median <= bound.atMost;
  return isMet ? 'met' : 'missed';
}

function shown(spread: Spread | null): string {
  if (spread === null) return '–';
  const { median, min, max } = spread;
  const digits = median >= 100 ? 0 : median >= 10 ? 1 : 2;
  const [a, b, c] = [median, min, max].map((value) => value.toFixed(digits));
  return min === max ? `${a}` : `${a} (${b}–${c})`;
}

function table(header: string[], rows: string[][]): string {
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
