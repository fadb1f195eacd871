import http from 'node:http';
import { aPut } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service, until } from './support/process.js';
import { scrapeOf, type Scrape } from './support/scrape.js';

const SLOW_MS = 90_000;
const REQUESTS = 24;
const OK = { operation: 'put', status: '200' };

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
});
afterEach(async () => {
  await cleanUp();
  await database.drop();
}, SLOW_MS);

const start = (environment: Record<string, string>) =>
  Service.start({ DATABASE_URL: database.url, ...environment }).ready();

const scrape = async (url: string): Promise<Scrape> => {
  const answer = await fetch(url, { headers: { connection: 'close' } });
  expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  return scrapeOf(await answer.text());
};

const metricsUrlOf = ({ log }: Service) => /metrics on (http:[^"]+)/.exec(log)?.[1] ?? '';

/** Each on a connection of its own, hence with the workers in turn. */
async function putMany(service: Service): Promise<void> {
  for (let n = 0; n < REQUESTS; n += 1) {
    const agent = new http.Agent();
    expect((await service.post('put', aPut({ checkpoint_id: `${n}` }), agent)).status).toBe(200);
    agent.destroy();
  }
}

describe('the metrics of several workers', () => {
  it(
    'are the sum, whichever answers, and outlive a worker',
    async () => {
      const service = await start({ WORKERS: '3' });
      await putMany(service);
      for (let n = 0; n < 4; n += 1) {
        const { value } = await scrape(`${service.url}/metrics`);
        expect(value('requests_total', OK)).toBe(REQUESTS);
        expect(value('request_duration_seconds_count', OK)).toBe(REQUESTS);
        expect(value('pool_max_connections')).toBe(10);
      }
      const [, pid] = /\(process (\d+)\) is ready/.exec(service.log) ?? [];
      process.kill(Number(pid), 'SIGKILL');
      await until('another worker has come', () => service.log.match(/is ready/g)?.length === 4);
      expect((await scrape(`${service.url}/metrics`)).value('requests_total', OK)).toBe(REQUESTS);
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  it(
    'are on a port of their own when that is said, and not on the other',
    async () => {
      const service = await start({ WORKERS: '2', METRICS_PORT: '0' });
      await putMany(service);
      expect((await scrape(metricsUrlOf(service))).value('requests_total', OK)).toBe(REQUESTS);
      expect((await service.get('/metrics')).status).toBe(404);
      expect((await fetch(new URL('/other', metricsUrlOf(service)))).status).toBe(404);
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );

  it(
    'are served while one of them is stuck',
    async () => {
      const service = await start({ WORKERS: '2', METRICS_PORT: '0' });
      await putMany(service);
      await scrape(metricsUrlOf(service));
      const [, pid] = /\(process (\d+)\) is ready/.exec(service.log) ?? [];
      process.kill(Number(pid), 'SIGSTOP');
      expect((await scrape(metricsUrlOf(service))).value('requests_total', OK)).toBe(REQUESTS);
      process.kill(Number(pid), 'SIGCONT');
      expect(await service.stop()).toBe(0);
    },
    SLOW_MS,
  );
});

it(
  'a service of one process has a port for them too',
  async () => {
    const service = await start({ METRICS_PORT: '0' });
    await putMany(service);
    expect((await scrape(metricsUrlOf(service))).value('requests_total', OK)).toBe(REQUESTS);
    expect((await service.get('/metrics')).status).toBe(404);
    expect(await service.stop()).toBe(0);
  },
  SLOW_MS,
);
