import { setTimeout as delay } from 'node:timers/promises';
import { itMerging, startApp, type TestApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';
import { aGate } from './support/gate.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { type Scrape, scrapeOf } from './support/scrape.js';

let app: TestApp;
let database: TestDatabase;

const start = async (environment: Record<string, string> = {}) => {
  database = await createDatabase();
  app = await startApp(environment, database);
};
afterEach(async () => {
  await app.close();
  await database.drop();
});

const scrape = async (): Promise<Scrape> => scrapeOf((await app.get('/metrics')).text);

/** What every operation waits for: the lock of a table. */
async function whileLocked(work: () => Promise<void>): Promise<void> {
  await database.sql('begin');
  await database.sql('lock table checkpoints');
  await work();
  await database.sql('rollback');
}

/** Stores wait for it, and keep their connections. */
async function whileHeldUp(work: (open: () => Promise<unknown>) => Promise<void>): Promise<void> {
  const gate = await aGate(database);
  await gate.close();
  await work(gate.open);
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await delay(10);
}

describe('GET /metrics', () => {
  it('counts requests by operation and status, with their time and their bytes', async () => {
    await start();
    const body = JSON.stringify(aPut({ thread_id: 'é' }));
    const answers = [await app.post('put', body), await app.post('put', body), await app.post('put', '{}')];
    await app.get('/health/live');
    const { value } = await scrape();
    const operation = 'put';
    expect(value('requests_total', { operation, status: '200' })).toBe(2);
    expect(value('requests_total', { operation, status: '422' })).toBe(1);
    expect(value('requests_total', { operation: 'live', status: '200' })).toBe(1);
    expect(value('request_duration_seconds_count', { operation, status: '200' })).toBe(2);
    expect(value('request_duration_seconds_sum', { operation, status: '200' })).toBeGreaterThan(0);
    expect(value('request_size_bytes_sum', { operation })).toBe(2 * Buffer.byteLength(body) + 2);
    expect(value('request_size_bytes_count', { operation })).toBe(3);
    const texts = answers.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
    const sent = value('response_size_bytes_sum', { operation });
    expect(sent).toBeGreaterThan(texts + 3 * 100); // with their headers
    expect(sent).toBeLessThan(texts + 3 * 1000);
  });

  it('has histograms whose buckets add up', async () => {
    await start();
    await app.post('put', aPut());
    const { samples, value } = await scrape();
    const labels = { operation: 'put', status: '200' };
    const buckets = samples
      .filter(({ name }) => name === 'checkpoint_backend_request_duration_seconds_bucket')
      .filter((sample) => sample.labels.operation === 'put');
    expect(buckets.map((sample) => sample.labels.le)).toEqual(
      '0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 +Inf'.split(' '),
    );
    const seconds = value('request_duration_seconds_sum', labels);
    for (const { labels: own, value: count } of buckets) {
      expect([own.le, count]).toEqual([
        own.le,
        Number(seconds <= Number(own.le?.replace('+Inf', 'Infinity'))),
      ]);
    }
  });

  it('counts the bytes of a body that came in pieces', async () => {
    await start();
    const answer = await fetch(`${app.url}/checkpoints/list`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Blob(['{"thread_id"', ':"t"}']).stream(),
      duplex: 'half',
    });
    expect(answer.status).toBe(200);
    await answer.text();
    expect((await scrape()).value('request_size_bytes_sum', { operation: 'list' })).toBe(17);
  });

  it('has one value for whatever is no operation', async () => {
    await start();
    for (const path of [
      '/nowhere',
      '/checkpoints/put',
      '/checkpoints/x',
      '/health/live/x',
      '/checkpoints/put?a',
    ])
      await app.get(path);
    await app.post('nothing', '{}');
    await app.post('put?a=b', aPut());
    const { samples } = await scrape();
    const requests = samples.filter(({ name }) => name === 'checkpoint_backend_requests_total');
    expect(requests.map(({ labels, value }) => [labels.operation, labels.status, value])).toEqual([
      ['other', '404', 6],
      ['put', '200', 1],
    ]);
  });

  it('counts a client that has gone before its answer as 499', async () => {
    await start();
    await whileLocked(async () => {
      const gone = new AbortController();
      const request = fetch(`${app.url}/checkpoints/get-tuple`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: '{"thread_id":"t"}',
        signal: gone.signal,
      });
      await until(async () => (await scrape()).value('requests_in_flight') === 2); // with the scrape itself
      gone.abort();
      await expect(request).rejects.toThrow();
      await until(async () => (await scrape()).value('requests_in_flight') === 1);
    });
    expect((await scrape()).value('requests_total', { operation: 'get-tuple', status: '499' })).toBe(1);
  });

  it('shows the pool and the queue, what they refused and why', async () => {
    await start({ DATABASE_POOL_MAX: '2', QUEUE_MAX: '3', QUEUE_WAIT_MS: '1000' });
    const before = await scrape();
    expect(before.value('pool_max_connections')).toBe(2);
    expect(before.value('queue_max_requests')).toBe(3);
    expect(before.value('queue_refused_total', { reason: 'full' })).toBe(0);
    await whileHeldUp(async (open) => {
      const answers = Array.from({ length: 7 }, () => app.post('put', aPut({ thread_id: aThread() })));
      await until(async () => (await scrape()).value('queue_refused_total', { reason: 'full' }) === 2);
      const { value } = await scrape();
      expect(value('pool_connections', { state: 'in_use' })).toBe(2);
      expect(value('queue_waiting_requests')).toBe(3);
      await until(async () => (await scrape()).value('queue_refused_total', { reason: 'timeout' }) === 3);
      await open();
      await Promise.all(answers);
    });
    const { value } = await scrape();
    expect(value('queue_waiting_requests')).toBe(0);
    expect(value('pool_connections', { state: 'in_use' })).toBe(0);
    expect(value('pool_connections', { state: 'idle' })).toBe(2);
    expect(value('queue_wait_seconds_count')).toBe(2);
    expect(value('statement_duration_seconds_count')).toBe(2);
    expect(value('statement_duration_seconds_sum')).toBeGreaterThan(0.8);
    expect(value('requests_total', { operation: 'put', status: '503' })).toBe(5);
  });

  it('measures how long requests waited in the queue', async () => {
    await start({ DATABASE_POOL_MAX: '1' });
    await whileHeldUp(async (open) => {
      const answers = ['a', 'b'].map((thread_id) => app.post('put', aPut({ thread_id })));
      await until(async () => (await scrape()).value('queue_waiting_requests') === 1);
      await delay(300);
      await open();
      await Promise.all(answers);
    });
    const { value } = await scrape();
    expect(value('queue_wait_seconds_count')).toBe(2);
    expect(value('queue_wait_seconds_sum')).toBeGreaterThan(0.3);
    expect(value('queue_wait_seconds_bucket', { le: '0.25' })).toBe(1);
  });

  itMerging('shows how many requests share a statement', async () => {
    await start({ FAST_PATH: 'true', DATABASE_POOL_MAX: '2' });
    const gate = await aGate(database);
    await gate.close();
    const answers = Array.from({ length: 12 }, () => app.post('put', aPut({ thread_id: aThread() })));
    await until(async () => (await scrape()).value('queue_waiting_requests') === 10);
    await gate.open();
    await Promise.all(answers);
    const { value } = await scrape();
    expect(value('statement_requests_count')).toBe(3);
    expect(value('statement_requests_sum')).toBe(12);
    expect(value('statement_requests_bucket', { le: '1' })).toBe(2);
  });

  it('counts what the database did wrong by class, and what was sent again', async () => {
    await start();
    await app.post('get-tuple', { thread_id: 't' });
    await database.sql(
      `select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'checkpoint-backend' and state = 'idle'`,
    );
    // One that is used before its end is noticed would count, too.
    await until(async () => (await scrape()).value('pool_connections', { state: 'idle' }) === 0);
    await whileLocked(async () => {
      const answer = app.post('get-tuple', { thread_id: 't' });
      await until(async () => {
        await database.sql('select pg_stat_clear_snapshot()'); // the transaction would keep what it has seen
        const killed = await database.sql(
          `select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'`,
        );
        return killed.length > 0;
      });
      await until(
        async () => (await scrape()).value('database_retries_total', { sqlstate_class: '57' }) === 1,
      );
      await database.sql('rollback');
      expect((await answer).status).toBe(200);
    });
    await database.sql('drop table checkpoint_blobs');
    expect((await app.post('get-tuple', { thread_id: 't' })).status).toBe(500);
    const { value } = await scrape();
    expect(value('database_errors_total', { sqlstate_class: '57' })).toBe(1);
    expect(value('database_errors_total', { sqlstate_class: '42' })).toBe(1);
    expect(value('database_errors_total', { sqlstate_class: 'connection' })).toBe(0);
  });

  it('says what runs, and how the process is', async () => {
    await start();
    const { samples, value } = await scrape();
    const build = samples.find(({ name }) => name === 'checkpoint_backend_build_info');
    expect(build).toMatchObject({ labels: { version: '0.1.0', node_version: process.version }, value: 1 });
    expect(samples.find(({ name }) => name === 'process_resident_memory_bytes')?.value).toBeGreaterThan(1e7);
    expect(value('event_loop_active_seconds_total')).toBeGreaterThan(0);
    await delay(200);
    expect((await scrape()).value('event_loop_delay_seconds_count')).toBeGreaterThan(0);
    expect(value('inflight_bytes')).toBe(0);
  });

  it('is not on the port of the operations when it has one of its own', async () => {
    await start({ METRICS_PORT: '0' });
    expect((await app.get('/metrics')).status).toBe(404);
  });
});
