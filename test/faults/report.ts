import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
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

const PAGE = 'docs/explain/reliability.md';
const PLOT = 'docs/explain/reliability.svg';
const FRAME = `# Reliability

\`npm run test:faults -- --report\` writes the first part of this page anew, \`npm run test:faults -- --minutes 60 --report\` the
second; [test/faults/faults.ts](../test/faults/faults.ts) says what each fault is. The service runs as a process of its own,
with its default settings, on a real Postgres with \`fsync\` behind a TCP proxy that is the network. Agents put, put writes, get,
list, copy, prune and delete in closed loops, each on threads of its own, with one attempt a request, and compare every answer
with what they have stored.

- *Errors* are answers other than 2xx, and broken connections. They have to be 0 for every outage under \`OUTAGE_WAIT_MS\`.
- *Lost* are rows that were acknowledged and are not there, or not as they were sent: every row is compared in the database, and
  every thread once more through the service. Each has to be 0, as wrong answers have to.
- *Longest* is the longest that a request took, *recovery* the time from the end of the fault until every agent had had an answer.
- *Memory* is the service's resident memory before and after.

<!-- faults -->
<!-- /faults -->

<!-- soak -->
<!-- /soak -->

## Tenants side by side

\`npm run test:soak\` (\`SOAK_SECONDS\`, default 60) runs two instances on one database with 32 MiB of \`INFLIGHT_BYTES\`, and three
tenants with keys of their own. Agents put blobs of 40 bytes to 8 MiB, list, read histories, copy, prune and delete; groups of
requests race on one thread; meanwhile each tenant sends gzip bodies that break, bodies that never come, invalid documents, and
leaves answers unread. What is stored names its owner every 512 bytes. Every answer is compared with what its tenant stored,
and at the end so are the tables. Each of these has to be 0:

- *foreign*: another tenant's bytes, in an answer or in a row;
- *wrong*: an answer that is not what was stored; *lost*: an acknowledged store that no delete can have removed;
- *returned*: what was deleted is back, or a blob outlived its checkpoint; *partial*: some rows of one request;
- *misjudged*: a valid request that was refused, or an invalid one that was not; *broken*: 500, or a connection that broke.
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
      : `## A soak\n\n${facts}.\n\n![Memory and latency over time](${PLOT.slice(5)})\n\n${tableOf(rows)}\n\n${samplesOf(samples)}`;
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
