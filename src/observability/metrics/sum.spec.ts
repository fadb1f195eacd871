import { scrapeOf } from '../../../test/support/scrape.js';
import { Metrics } from './metrics.js';
import { MetricsSum } from './sum.js';

describe('MetricsSum', () => {
  const made: Metrics[] = [];
  const aWorker = (requests: number, waiting: number) => {
    const metrics = new Metrics('1.2.3');
    made.push(metrics);
    metrics.read.queueWaiting = () => waiting;
    for (let n = 0; n < requests; n += 1) metrics.request('put', 200, 125, 100, 1000);
    return metrics;
  };
  const valuesOf = async (sum: MetricsSum) => {
    const { value } = scrapeOf(await sum.text());
    return {
      requests: value('requests_total', { operation: 'put', status: '200' }),
      fast: value('request_duration_seconds_bucket', { operation: 'put', status: '200', le: '0.25' }),
      seconds: value('request_duration_seconds_sum', { operation: 'put', status: '200' }),
      waiting: value('queue_waiting_requests'),
      build: value('build_info', { version: '1.2.3', node_version: process.version }),
    };
  };
  afterEach(() => {
    for (const metrics of made.splice(0)) metrics.stop();
  });

  it('adds up what processes count, but not what they all say alike', async () => {
    const sum = new MetricsSum();
    sum.set(1, await aWorker(2, 5).snapshot());
    sum.set(2, await aWorker(3, 1).snapshot());
    expect(await valuesOf(sum)).toEqual({ requests: 5, fast: 5, seconds: 0.625, waiting: 6, build: 1 });
  });

  it('keeps what a process counted that has ended, and not what it had just then', async () => {
    const sum = new MetricsSum();
    sum.set(1, await aWorker(2, 5).snapshot());
    sum.set(2, await aWorker(3, 1).snapshot());
    sum.remove(1);
    expect(await valuesOf(sum)).toMatchObject({ requests: 5, fast: 5, seconds: 0.625, waiting: 1 });
    sum.remove(2);
    sum.remove(9);
    sum.set(3, await aWorker(1, 0).snapshot());
    expect(await valuesOf(sum)).toMatchObject({ requests: 6, fast: 6, seconds: 0.75, waiting: 0 });
  });
});

it.each([
  { milliseconds: 1, bucket: '0.001' },
  { milliseconds: 1.01, bucket: '0.0025' },
  { milliseconds: 60_000, bucket: '60' },
  { milliseconds: 60_001, bucket: '+Inf' },
])('a request of $milliseconds ms is first counted at $bucket s', async ({ milliseconds, bucket }) => {
  const metrics = new Metrics('1');
  metrics.request('put', 200, milliseconds, 0, 0);
  const { samples } = scrapeOf(await metrics.scrape());
  const counted = samples.find(
    ({ name, value }) => name === 'checkpoint_backend_request_duration_seconds_bucket' && value === 1,
  );
  expect(counted?.labels.le).toBe(bucket);
  metrics.stop();
});
