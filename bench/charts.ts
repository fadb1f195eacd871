/**
 * The charts of docs/explain/benchmarks.md, drawn from the tables of benchmarks-raw.md. `npm run bench` draws them when it has
 * written that page; without a benchmark: npx tsc -p bench/tsconfig.build.json && node dist/bench/charts.js
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const SHELF = 'docs/explain';
const PAGE = `${SHELF}/benchmarks-raw.md`;

interface Spread {
  median: number;
  min: number;
  max: number;
}

/** By profile, candidate and measure. */
type Values = Map<string, Spread>;

interface Chart {
  file: string;
  title: string;
  section: 'Figures' | 'Ratios';
  measure: string;
  /** The label of each group of bars, and its profile. */
  groups: [label: string, profile: string][];
  candidates: readonly string[];
  /** A line across the chart, such as that of the yardstick in a chart of ratios. */
  line?: number;
}

const AGENTS: Chart['groups'] = [1, 16, 64, 256].map((n) => [
  n === 1 ? '1 agent' : `${n} agents`,
  `agent-step-${n}`,
]);
const SAVERS = ['service', 'E', 'Python AsyncPostgresSaver', 'LangGraph.js PostgresSaver'] as const;

const CHARTS: Chart[] = [
  {
    ...{ file: 'benchmarks-throughput.svg', title: 'Operations per second (more is better)' },
    ...{ section: 'Figures', measure: 'operations/s', groups: AGENTS, candidates: SAVERS },
  },
  {
    ...{
      file: 'benchmarks-latency.svg',
      title: 'Time in which 99 of 100 operations end, ms (less is better)',
    },
    ...{ section: 'Figures', measure: 'p99, ms', groups: AGENTS, candidates: SAVERS },
  },
  {
    ...{
      file: 'benchmarks-postgres-cpu.svg',
      title: 'CPU of Postgres for an operation, µs (less is better)',
    },
    ...{ section: 'Figures', measure: 'Postgres CPU, µs', groups: AGENTS, candidates: SAVERS },
  },
  {
    ...{
      file: 'benchmarks-operations.svg',
      title: 'Operations per second, the bare server E being 1 (more is better)',
    },
    ...{ section: 'Ratios', measure: 'operations/s', candidates: ['service'], line: 1 },
    groups: [
      'get-tuple',
      'put',
      'put-writes',
      'list-10',
      'list-100',
      'delete-thread',
      'blobs-1mb',
      'blobs-8mb',
    ].map((profile) => [profile, profile]),
  },
  {
    ...{ file: 'benchmarks-growth.svg', title: 'Operations per second of one agent (equal is good)' },
    ...{ section: 'Figures', measure: 'operations/s' },
    candidates: ['service, small thread', 'service, grown thread'],
    groups: ['get-tuple', 'put', 'list-head', 'list-middle', 'list-tail', 'list-tail-filter'].map((name) => [
      name,
      `growth-${name}`,
    ]),
  },
];

const COLORS = ['#1f5fa8', '#9aa5b1', '#4b8b3b', '#d98c1f'];
const [WIDTH, HEIGHT, TOP, BOTTOM, SIDE] = [760, 330, 70, 32, 16];
const PLOT_HEIGHT = HEIGHT - TOP - BOTTOM;

/** The path and the text of each chart, by the tables as they are. */
export function charts(): [path: string, svg: string][] {
  const page = readFileSync(PAGE, 'utf8');
  return CHARTS.map((chart) => [`${SHELF}/${chart.file}`, draw(chart, valuesOf(page, chart.section))]);
}

export function drawCharts(): void {
  for (const [path, svg] of charts()) writeFileSync(path, svg);
}

function valuesOf(page: string, section: string): Values {
  const [, text = ''] = page.split(`\n## ${section}\n`);
  const [own = ''] = text.split('\n## ');
  const rows = own
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
  const [header = [], , ...lines] = rows;
  const values: Values = new Map();
  for (const cells of lines) {
    const cell = (name: string) => cells[header.indexOf(name)] ?? '';
    for (const measure of header) {
      const spread = spreadOf(cell(measure));
      if (spread !== null) values.set(keyOf(cell('profile'), cell('candidate'), measure), spread);
    }
  }
  return values;
}

function keyOf(...parts: string[]): string {
  return parts.join('\n');
}

/** `3998 (3665–4380)`, or one value for all rounds. */
function spreadOf(text: string): Spread | null {
  const [, median, min = median, max = median] = /^([\d.]+)(?: \(([\d.]+)–([\d.]+)\))?$/.exec(text) ?? [];
  return median === undefined ? null : { median: Number(median), min: Number(min), max: Number(max) };
}

function draw({ title, measure, groups, candidates, line }: Chart, values: Values): string {
  const bars = groups.map(([label, profile]) => ({
    label,
    bars: candidates.flatMap((candidate, at) => {
      const spread = values.get(keyOf(profile, candidate, measure));
      return spread === undefined ? [] : [{ candidate, spread, color: COLORS[at] ?? '#000' }];
    }),
  }));
  for (const group of bars) if (group.bars.length === 0) throw new Error(`No ${measure} of ${group.label}`);
  const top = Math.max(...bars.flatMap((group) => group.bars.map(({ spread }) => spread.max)));
  const y = (value: number) => TOP + PLOT_HEIGHT * (1 - value / top);
  const slot = (WIDTH - 2 * SIDE) / groups.length;
  const width = Math.min(44, (slot * 0.8) / candidates.length);
  const parts = bars.flatMap((group, n) => {
    const middle = SIDE + slot * (n + 0.5);
    const left = middle - (width * group.bars.length) / 2;
    return [
      ...group.bars.map(({ spread, color, candidate }, at) =>
        bar(left + at * width, width, color, spread, candidate, y),
      ),
      `<text x="${middle.toFixed(1)}" y="${HEIGHT - 12}" text-anchor="middle">${group.label}</text>`,
    ];
  });
  let legendAt = SIDE;
  const legend = candidates.flatMap((candidate, at) => {
    if (candidates.length === 1) return [];
    const name = candidate === 'E' ? 'E, a bare server' : candidate;
    const x = legendAt;
    legendAt += 40 + 7 * name.length;
    return `<rect x="${x}" y="32" width="11" height="11" fill="${COLORS[at]}"/><text x="${x + 16}" y="42">${name}</text>`;
  });
  const across =
    line === undefined
      ? []
      : [
          `<path d="M${SIDE} ${y(line).toFixed(1)}H${WIDTH - SIDE}" stroke="#b03030" stroke-dasharray="5 4"/>`,
        ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<title>${title}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="${SIDE}" y="20" font-size="14" font-weight="bold">${title}</text>
${[...legend, ...parts, ...across].join('\n')}
<path d="M${SIDE} ${TOP + PLOT_HEIGHT}H${WIDTH - SIDE}" stroke="#555"/>
</svg>
`;
}

/** A bar for the median, and a line from the least to the greatest of the rounds. */
function bar(
  left: number,
  width: number,
  color: string,
  { median, min, max }: Spread,
  candidate: string,
  y: (value: number) => number,
): string {
  const middle = (left + width / 2).toFixed(1);
  const at = (value: number) => y(value).toFixed(1);
  return `<rect x="${(left + 1.5).toFixed(1)}" y="${at(median)}" width="${(width - 3).toFixed(1)}" height="${(y(0) - y(median)).toFixed(1)}" fill="${color}"><title>${candidate}: ${median} (${min} to ${max})</title></rect>
<path d="M${middle} ${at(max)}V${at(min)}" stroke="#222"/>
<text x="${middle}" y="${(y(max) - 4).toFixed(1)}" text-anchor="middle" font-size="10">${shown(median)}</text>`;
}

function shown(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(value);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) drawCharts();
