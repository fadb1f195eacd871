import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { basename } from 'node:path';
import { format, resolveConfig } from 'prettier';
import { plot } from './plot.js';

/** What was seen of one fault. */
export interface Row {
  name: string;
  what: string;
  /** How often it was applied, when more than once. */
  times?: number;
  requests: number;
  acknowledged: number;
  errors: Map<string, number>;
  wrong: number;
  retries: Map<string, number>;
  lost: number;
  faultMs: number;
  recoveryMs: number;
  longestMs: number;
  residentBefore: number | null;
  residentAfter: number | null;
}

/** What a soak sees of ten seconds. */
export interface Sample {
  seconds: number;
  residentBytes: number | null;
  ownBytes: number;
  p50: number;
  p99: number;
  max: number;
  requests: number;
  /** The fault that began in it, or ''. */
  fault: string;
}

const PAGE = 'docs/explain/reliability-raw.md';
const PLOT = 'docs/explain/reliability.svg';
const FRAME = `# Reliability: raw results

\`npm run test:faults -- --report\` writes the first part of this page, and \`npm run test:faults -- --minutes 60 --report\` the second.
[Reliability](reliability.md) explains what they mean; [test/faults/faults.ts](../../test/faults/faults.ts) says what each fault is.

- *Errors*: answers other than 2xx, and broken connections. They must be 0 for every outage shorter than \`OUTAGE_WAIT_MS\`.
- *Wrong answers*: answers that are not what was stored. They must be 0.
- *Lost*: acknowledged rows that are absent or changed. Every row is compared in the database, and every thread once more through the
  service. They must be 0.
- *Longest*: the longest time that a request took. *Recovery*: the time from the end of the fault until every agent had an answer.
- *Memory*: resident memory of the service, before and after.

<!-- faults -->
<!-- /faults -->

<!-- soak -->
<!-- /soak -->
`;

/** Writes the part of the page that was measured; the other one stays. */
export async function writeReport(
  rows: Row[],
  samples: Sample[] | null,
  run: { agents: number; seconds: number },
): Promise<void> {
  const old = existsSync(PAGE) ? readFileSync(PAGE, 'utf8') : FRAME;
  const facts = `${run.agents} agents, ${os.availableParallelism()} cores, Node ${process.versions.node}, ${Math.round(run.seconds / 60)} minutes`;
  const part = samples === null ? 'faults' : 'soak';
  const text =
    samples === null
      ? `## One fault after another\n\n${facts}.\n\n${tableOf(rows)}`
      : `## A soak\n\n${facts}.\n\n![Memory and latency over time](${basename(PLOT)})\n\n${tableOf(rows)}\n\n${samplesOf(samples)}`;
  // The frame is this program's, the other part is kept.
  const other = part === 'faults' ? 'soak' : 'faults';
  const page = put(put(FRAME, other, sectionOf(old, other)), part, text);
  writeFileSync(PAGE, await format(page, { ...(await resolveConfig(PAGE)), filepath: PAGE }));
  if (samples !== null) writeFileSync(PLOT, plot(samples));
}

function sectionOf(page: string, name: string): string {
  const [, section = ''] = new RegExp(`<!-- ${name} -->\\n([^]*?)<!-- /${name} -->`).exec(page) ?? [];
  return section.trim();
}

function put(page: string, name: string, text: string): string {
  const filled = text === '' ? '' : `\n${text}\n\n`;
  return page.replace(
    new RegExp(`(<!-- ${name} -->\\n)[^]*?(<!-- /${name} -->)`),
    (_, a: string, b: string) => a + filled + b,
  );
}

const counts = (map: Map<string, number>) =>
  [...map].map(([what, count]) => `${what === '' ? 'connection lost' : what}: ${count}`).join(', ') || '0';
const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
const megabytes = (bytes: number | null) => (bytes === null ? '–' : `${Math.round(bytes / 1e6)} MB`);

function tableOf(rows: Row[]): string {
  return table(
    [
      'fault',
      'what was done',
      'took',
      'requests',
      'writes acknowledged',
      'errors',
      'wrong answers',
      'lost',
      'longest',
      'recovery',
      'memory',
      'sent again by the service',
    ],
    rows.map((row) => [
      row.name + (row.times === undefined ? '' : ` (${row.times} times)`),
      row.what,
      seconds(row.faultMs),
      String(row.requests),
      String(row.acknowledged),
      counts(row.errors),
      String(row.wrong),
      String(row.lost),
      seconds(row.longestMs),
      seconds(row.recoveryMs),
      `${megabytes(row.residentBefore)}, ${megabytes(row.residentAfter)}`,
      counts(row.retries),
    ]),
  );
}

/** At most some thirty lines, however long the soak was: each sums up as many samples as it takes. */
function samplesOf(samples: Sample[]): string {
  const size = Math.max(1, Math.ceil(samples.length / 30));
  const groups = Array.from({ length: Math.ceil(samples.length / size) }, (_, n) =>
    samples.slice(n * size, (n + 1) * size),
  );
  const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
  return table(
    ['minute', 'requests/s', 'p50', 'p99', 'longest', 'memory', 'memory of the script', 'faults'],
    groups.map((group) => [
      ((group[0]?.seconds ?? 0) / 60).toFixed(1),
      String(Math.round(group.reduce((sum, { requests }) => sum + requests, 0) / group.length / 10)),
      `${median(group.map(({ p50 }) => p50)).toFixed(1)} ms`,
      `${median(group.map(({ p99 }) => p99)).toFixed(0)} ms`,
      seconds(Math.max(...group.map(({ max }) => max))),
      megabytes(group.at(-1)?.residentBytes ?? null),
      megabytes(group.at(-1)?.ownBytes ?? null),
      group.flatMap(({ fault }) => fault || []).join(', '),
    ]),
  );
}

function table(header: string[], rows: string[][]): string {
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
