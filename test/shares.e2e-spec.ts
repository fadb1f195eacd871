import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, type TestApp, itMerging, startApp } from './support/app.js';
import { aPut, aThread, base64 } from './support/builders.js';
import { aKey } from './support/keys.js';
import { until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MIB = 1024 * 1024;

let app: TestApp;
const keys = new Map<string, string>();
const clients: RawClient[] = [];
afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy();
  await app.close();
});

const as = (tenant: string) => ({ 'x-agent-api-key': keys.get(tenant) ?? '' });

/** Longer than any test takes, however busy the machine is: what waits is to be seen waiting. */
const PATIENCE = { QUEUE_WAIT_MS: '300000', STALL_TIMEOUT_MS: '300000' };

/** Starts the service; one request of each tenant has shown it that there are two. */
async function start(environment: Record<string, string>): Promise<void> {
  app = await startApp({ AUTH_MODE: 'keys', ...PATIENCE, ...environment });
  for (const tenant of ['many', 'few']) {
    keys.set(tenant, await aKey(app.database, { tenant, scopes: ['read', 'write', 'delete'] }));
    expect((await app.post('put', aPut({ thread_id: tenant }), as(tenant))).status).toBe(200);
  }
}

/** Sends so many requests, and counts those that are answered. */
function flood(count: number, request: () => Promise<Answer>): { answers: Answer[]; all: Promise<unknown> } {
  const answers: Answer[] = [];
  const all = Array.from({ length: count }, () => request().then((answer) => answers.push(answer)));
  return { answers, all: Promise.all(all) };
}

async function fewGoesOn(): Promise<void> {
  const thread_id = aThread();
  for (let n = 0; n < 5; n += 1) {
    expect((await app.post('put', aPut({ thread_id, checkpoint_id: `${n}` }), as('few'))).status).toBe(200);
    expect((await app.post('get-tuple', { thread_id }, as('few'))).json.checkpoint_id).toBe(`${n}`);
  }
}

/** From now on whoever changes a row that there is waits for it. */
async function lockRows(): Promise<void> {
  await app.database.sql('begin');
  await app.database.sql('select 1 from checkpoints for update');
}

/** How many statements wait for a row. Of those that wait for one and the same, all but one wait for each other. */
async function waitingForRows(): Promise<number> {
  // A transaction goes on seeing the activity that it saw first.
  await app.database.sql('select pg_stat_clear_snapshot()');
  const waiting = await app.database.sql(
    "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  );
  return waiting.length;
}

function aBody(bytes: number, thread_id = aThread()): Buffer {
  const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(Buffer.alloc(bytes, 7)) }];
  return Buffer.from(
    JSON.stringify(aPut({ thread_id, checkpoint: { channel_versions: { a: '1' } }, blobs })),
  );
}

async function open(tenant: string, operation: string, length: number): Promise<RawClient> {
  const client = await RawClient.open(app.url);
  clients.push(client);
  const headers = Object.entries(as(tenant)).map(([name, value]) => `${name}: ${value}`);
  return client.post(operation, `Content-Length: ${length}`, ...headers);
}

describe('a tenant whose statements take long', () => {
  const remove = () => app.post('delete-thread', { thread_id: 'many' }, as('many'));

  it('leaves the others a connection', async () => {
    await start({ DATABASE_POOL_MAX: '3' });
    const threads = Array.from({ length: 20 }, (_, n) => `many ${n}`);
    for (const thread_id of threads) await app.post('put', aPut({ thread_id }), as('many'));
    await lockRows();
    const { answers, all } = flood(20, () =>
      app.post('delete-thread', { thread_id: threads.pop() }, as('many')),
    );
    await until('they wait', async () => (await waitingForRows()) > 0);
    await fewGoesOn();
    expect(answers).toEqual([]);
    expect(await waitingForRows()).toBeLessThanOrEqual(2);
    await app.database.sql('commit');
    await all;
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([204]));
  });

  it('has no more than TENANT_MAX_CONCURRENT', async () => {
    await start({ DATABASE_POOL_MAX: '4', TENANT_MAX_CONCURRENT: '1' });
    await lockRows();
    const { answers, all } = flood(5, remove);
    await until('a statement waits', async () => (await waitingForRows()) > 0);
    await fewGoesOn();
    expect(answers).toEqual([]);
    expect(await waitingForRows()).toBeLessThanOrEqual(1);
    await app.database.sql('commit');
    await all;
  });

  it('leaves the others places in the queue', async () => {
    await start({ DATABASE_POOL_MAX: '2', QUEUE_MAX: '6' });
    await lockRows();
    const { answers, all } = flood(20, remove);
    await until('it is refused', () => answers.length > 10);
    await fewGoesOn();
    const refused = answers.length;
    for (const { status, json } of answers) {
      expect(status).toBe(503);
      expect(json).toMatchObject({
        type: '/problems/queue-full',
        detail: expect.stringMatching(/of this tenant wait for a connection already/),
      });
    }
    const { text } = await app.get('/metrics');
    expect(text).toContain(`checkpoint_backend_queue_refused_total{reason="share"} ${refused}\n`);
    await app.database.sql('commit');
    await all;
    expect(answers.filter(({ status }) => status === 204)).toHaveLength(20 - refused);
  });
});

itMerging('a tenant whose stores wait for locked rows leaves the others theirs', async () => {
  await start({ DATABASE_POOL_MAX: '5' });
  const own = ['1', '2', '3'].map((thread_id) => ({ thread_id: `many ${thread_id}` }));
  for (const key of own) await app.post('put', aPut(key), as('many'));
  await lockRows();
  const stores = Promise.all(own.map((key) => app.post('put', aPut(key), as('many'))));
  await until('its statements wait', async () => (await waitingForRows()) > 0);
  await fewGoesOn();
  expect(await waitingForRows()).toBeLessThanOrEqual(2);
  await app.database.sql('commit');
  expect((await stores).map(({ status }) => status)).toEqual([200, 200, 200]);
});

describe('a tenant with large bodies', () => {
  it('leaves the others half of INFLIGHT_BYTES, and waits for its own half', async () => {
    await start({ INFLIGHT_BYTES: String(8 * MIB) });
    const body = aBody(1.2 * MIB);
    const before = app.received();
    const many = [];
    for (let n = 0; n < 12; n += 1) {
      const client = await open('many', 'put', body.length);
      many.push(client.write(body.subarray(0, -10)));
    }
    while (app.received() < before + 12) await delay(5);
    await delay(200);
    const { text } = await app.get('/metrics');
    const [, taken] = /checkpoint_backend_inflight_bytes (\d+)/.exec(text) ?? [];
    // The oldest is there but for its end, and the others have what has come of them.
    expect(Number(taken)).toBeGreaterThanOrEqual(body.length);
    expect(Number(taken)).toBeLessThanOrEqual(4 * MIB);
    await fewGoesOn();
    expect((await app.post('put', aBody(2 * MIB).toString(), as('few'))).status).toBe(200);
    expect(many.map(({ answer }) => answer).join('')).toBe('');
    for (const client of many) client.write(body.subarray(-10));
    expect(new Set(await Promise.all(many.map((client) => client.status())))).toEqual(new Set([200]));
  });

  it('gets one through that is larger than its share', async () => {
    await start({ INFLIGHT_BYTES: String(8 * MIB), TENANT_INFLIGHT_BYTES: String(MIB) });
    const { answers, all } = flood(4, () => app.post('put', aBody(2 * MIB).toString(), as('many')));
    await all;
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  });

  it('that does not read its answers holds up itself alone', async () => {
    await start({ INFLIGHT_BYTES: String(16 * MIB), DATABASE_POOL_MAX: '2' });
    const thread_id = aThread();
    expect((await app.post('put', aBody(4 * MIB, thread_id).toString(), as('many'))).status).toBe(200);
    // From it the service knows how large answers are.
    await app.post('get-tuple', { thread_id }, as('many'));
    const request = JSON.stringify({ thread_id });
    const many = [];
    for (let n = 0; n < 4; n += 1) {
      const client = await open('many', 'get-tuple', request.length);
      client.socket.pause();
      many.push(client.write(request));
    }
    await delay(500);
    await fewGoesOn();
    const { text } = await app.get('/metrics');
    const [, taken] = /checkpoint_backend_inflight_bytes (\d+)/.exec(text) ?? [];
    expect(Number(taken)).toBeLessThan(16 * MIB);
    for (const { socket } of many) socket.resume();
    expect(await Promise.all(many.map((client) => client.status()))).toEqual([200, 200, 200, 200]);
  });
});
