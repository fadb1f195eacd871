import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { aPut, aPutWrites, aThread, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service } from './support/process.js';
import { selectorsOf } from './support/promql.js';
import { type Sample, scrapeOf } from './support/scrape.js';

const fileOf = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const ALERTS = fileOf('../deploy/prometheus-alerts.yaml');
const ALERTS_TEST = fileOf('fixtures/prometheus-alerts-test.yaml');
const DASHBOARD = fileOf('../deploy/grafana-dashboard.json');
const PAGE = fileOf('../docs/reference/metrics-and-alerts.md');

/** What Prometheus adds to each sample. */
const OF_THE_TARGET = ['instance', 'job'];

interface Rule {
  alert: string;
  expr: string;
  annotations: Record<string, string>;
}
interface Panel {
  title: string;
  targets?: { expr: string; legendFormat: string }[];
}

const alerts = (parse(readFileSync(ALERTS, 'utf8')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  ({ rules }) => rules,
);
const dashboard = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as {
  panels: Panel[];
  templating: { list: { name: string; definition?: string }[] };
};

/** Each with the labels that its text shows. */
const queries = [
  ...alerts.map(({ alert, expr, annotations }) => ({
    name: alert,
    expr,
    shown: [...JSON.stringify(annotations).matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label!),
  })),
  ...dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr, legendFormat }, n) => ({
      name: `${title}, ${n + 1}`,
      // As Grafana does before it sends them.
      expr: expr.replaceAll('$__rate_interval', '1m').replaceAll('$instance', '.*'),
      shown: [...legendFormat.matchAll(/{{(\w+)}}/g)].map(([, label]) => label!),
    })),
  ),
];

let database: TestDatabase;
let app: Service;
let samples: Sample[];

/** Of everything that the service can do and refuse there is something. */
async function load(): Promise<void> {
  const { sql } = database;
  const thread_id = aThread();
  const key = { thread_id, checkpoint_id: 'c' };
  const statuses = [
    await app.post('put', aPut(key)),
    await app.post('put-writes', aPutWrites(key)),
    await app.post('get-tuple', { thread_id }),
    await app.post('list', { thread_id }),
    await app.post('copy-thread', { source_thread_id: thread_id, target_thread_id: aThread() }),
    await app.post('delta-channel-history', { thread_id, channels: ['a'] }),
    await app.post('prune', { thread_ids: [thread_id], strategy: 'keep_latest' }),
    await app.post('delete-for-runs', { run_ids: ['r'] }),
    await app.post('delete-thread', { thread_id }),
    await app.post('put', {}),
    await app.get('/health/live'),
    await app.get('/health/ready'),
    await app.get('/nowhere'),
  ].map(({ status }) => status);
  expect(statuses).toEqual([200, 204, 200, 200, 204, 200, 204, 204, 204, 422, 200, 200, 404]);
  await sql('begin');
  await sql('lock table checkpoints');
  const refused = await Promise.all([1, 2, 3].map(() => app.post('get-tuple', { thread_id })));
  expect(refused.map(({ status }) => status)).toContain(503);
  await sql('rollback');
  await sql('alter table checkpoint_blobs rename to elsewhere');
  expect((await app.post('get-tuple', { thread_id })).status).toBe(500);
  await sql('alter table elsewhere rename to checkpoint_blobs');
  // Enough for the garbage collector to have something to do, and for the event loop to be looked at.
  const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('a'.repeat(1_000_000)) }];
  for (let n = 0; n < 30; n += 1) {
    expect((await app.post('put', aPut({ checkpoint_id: `${n}`, blobs }))).status).toBe(200);
  }
}

beforeAll(async () => {
  database = await createDatabase();
  app = await Service.start({
    ...{ DATABASE_URL: database.url, DATABASE_POOL_MAX: '1', QUEUE_MAX: '1' },
    STATEMENT_TIMEOUT_MS: '3000',
  }).ready();
  await load();
  const withKeys = await Service.start({ DATABASE_URL: database.url, AUTH_MODE: 'keys' }).ready();
  expect((await withKeys.post('get-tuple', { thread_id: aThread() })).status).toBe(401);
  const scraped = [app, withKeys].map(async ({ url }) =>
    scrapeOf(await (await fetch(`${url}/metrics`)).text()),
  );
  samples = (await Promise.all(scraped)).flatMap((scrape) => scrape.samples);
}, 90_000);
afterAll(async () => {
  await cleanUp();
  await database.drop();
}, 90_000);

it('there are queries of both, and each is tested once', () => {
  expect(alerts.length).toBeGreaterThan(10);
  expect(queries.length).toBeGreaterThan(alerts.length + 20);
  expect(new Set(queries.map(({ name }) => name)).size).toBe(queries.length);
});

it.each(queries)('reads what the service serves: $name', ({ expr, shown }) => {
  const selectors = selectorsOf(expr);
  expect(selectors).not.toEqual([]);
  for (const { metric, labels, groupedBy } of selectors) {
    const served = samples.filter(({ name }) => name === metric);
    expect([metric, served.length > 0]).toEqual([metric, true]);
    for (const { name, values, isRegex } of labels.filter((label) => !OF_THE_TARGET.includes(label.name))) {
      for (const value of values) {
        const pattern = isRegex ? new RegExp(`^(?:${value})$`) : null;
        const matches = served.filter((sample) => {
          const own = sample.labels[name] ?? '';
          return pattern === null ? own === value : pattern.test(own);
        });
        expect([metric, name, value, matches.length > 0]).toEqual([metric, name, value, true]);
      }
    }
    for (const label of groupedBy.filter((name) => !OF_THE_TARGET.includes(name))) {
      expect([metric, label, served[0]!.labels]).toEqual([
        metric,
        label,
        expect.objectContaining({ [label]: expect.any(String) }),
      ]);
    }
    // A text may show what the query leaves: all of the metric's labels, or those that it is grouped by.
    const left = groupedBy.length > 0 ? groupedBy : [...Object.keys(served[0]!.labels), ...OF_THE_TARGET];
    if (selectors[0]!.metric === metric) expect(left).toEqual(expect.arrayContaining(shown));
  }
  if (expr.includes('histogram_quantile')) {
    for (const { metric, groupedBy } of selectors)
      expect([metric, groupedBy]).toEqual([
        expect.stringMatching(/_bucket$/),
        expect.arrayContaining(['le']),
      ]);
  }
});

it('asks for the instances by a metric that there is', () => {
  const [, metric, label] =
    /^label_values\((\w+), (\w+)\)$/.exec(
      dashboard.templating.list.find(({ name }) => name === 'instance')?.definition ?? '',
    ) ?? [];
  expect(samples.map(({ name }) => name)).toContain(metric);
  expect(OF_THE_TARGET).toContain(label);
});

it('shows or watches every metric of its own', () => {
  const read = new Set(
    queries
      .flatMap(({ expr }) => selectorsOf(expr))
      .map(({ metric }) => metric.replace(/_(bucket|sum|count)$/, '')),
  );
  const own = samples.map(({ name }) => name).filter((name) => name.startsWith('checkpoint_backend_'));
  const unread = new Set(
    own.map((name) => name.replace(/_(bucket|sum|count)$/, '')).filter((name) => !read.has(name)),
  );
  expect([...unread]).toEqual([]);
});

it('metrics-and-alerts.md explains every metric of its own, and every alert', () => {
  const page = readFileSync(PAGE, 'utf8');
  const own = samples
    .map(({ name }) => name.replace(/_(bucket|sum|count)$/, ''))
    .filter((name) => name.startsWith('checkpoint_backend_'));
  for (const name of new Set(own)) expect(page).toContain(`\`${name}\``);
  for (const { alert } of alerts) expect(page).toContain(`\`${alert.replace('CheckpointBackend', '')}\``);
});

const promtool = spawnSync('promtool', ['--version']).error === undefined;
(promtool ? it : it.skip)("Prometheus's own promtool takes the rules, and they fire when they should", () => {
  for (const command of [
    ['check', 'rules', ALERTS],
    ['test', 'rules', ALERTS_TEST],
  ]) {
    const { status, stdout, stderr } = spawnSync('promtool', command, { encoding: 'utf8' });
    expect([status, `${stdout}${stderr}`]).toEqual([0, expect.any(String)]);
  }
});
