import { readFileSync } from 'node:fs';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { aPut, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MIB = 1024 * 1024;
const SLOW_MS = 300_000;

let database: TestDatabase;
let service: Service;
afterEach(async () => {
  await cleanUp();
  await database.drop();
}, SLOW_MS);

async function start(environment: Record<string, string>): Promise<void> {
  database = await createDatabase();
  service = await Service.start({ DATABASE_URL: database.url, LOG_LEVEL: 'info', ...environment }).ready();
}

/** Connections that the service has to Postgres. */
async function connections(): Promise<number> {
  const [row] = await database.sql<{ count: number }>(
    `select count(*)::int from pg_stat_activity
      where datname = current_database() and application_name = 'checkpoint-backend'`,
  );
  return row?.count ?? 0;
}

/** The most memory that the process ever had, in bytes; null where there is no /proc. */
function peakBytes(): number | null {
  try {
    const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${service.pid}/status`, 'utf8')) ?? [];
    return Number(kilobytes) * 1024;
  } catch {
    return null;
  }
}

it(
  '10,000 agents on one instance cost Postgres 10 connections, and all are answered',
  async () => {
    const AGENTS = 10_000;
    await start({
      QUEUE_MAX: String(AGENTS),
      QUEUE_WAIT_MS: '300000',
      STATEMENT_TIMEOUT_MS: '300000',
      DATABASE_POOL_MAX: '10',
      HEADERS_TIMEOUT_MS: '60000',
    });
    const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
    const post = (n: number) =>
      service
        .post(n % 2 === 0 ? 'put' : 'get-tuple', aPut({ thread_id: `agent-${n}` }), agent)
        .then(({ status }) => status)
        .catch(String);
    // Nothing is answered meanwhile, so that all of them are there at once.
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answers: Promise<unknown>[] = [];
    while (answers.length < AGENTS) {
      answers.push(...Array.from({ length: 500 }, (_, n) => post(answers.length + n)));
      // Answered when the connections before it have been accepted: on a busy machine more than the kernel keeps would wait for it.
      expect((await service.get('/health/live')).status).toBe(200);
    }
    const seen = [await connections()];
    const watch = setInterval(() => {
      void connections().then((count) => seen.push(count));
    }, 50);
    await database.sql('commit');
    const statuses = await Promise.all(answers);
    clearInterval(watch);
    const counts = new Map<unknown, number>();
    for (const status of statuses) counts.set(status, (counts.get(status) ?? 0) + 1);
    agent.destroy();
    expect([...counts]).toEqual([[200, AGENTS]]);
    expect(Math.max(...seen)).toBeGreaterThan(0);
    expect(Math.max(...seen)).toBeLessThanOrEqual(10);
    const [row] = await database.sql('select count(*)::int from checkpoints');
    expect(row).toEqual({ count: AGENTS / 2 });
  },
  SLOW_MS,
);

it(
  '64 agents that store 16 MiB each at once are answered, in less than 1 GiB',
  async () => {
    await start({ QUEUE_WAIT_MS: '150000' });
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(Buffer.alloc(16 * MIB, 7)) }];
    const body = JSON.stringify(aPut({ blobs })).split('thread-1');
    const posts = [];
    for (let n = 0; n < 64; n += 1) {
      posts.push(service.post('put', body.join(`thread-${n}`)));
      await delay(1); // its headers leave before the next body is made, which takes long on a busy machine
    }
    const answers = await Promise.all(posts);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    const [row] = await database.sql(
      'select count(*)::int, min(length(blob))::int as least from checkpoint_blobs',
    );
    expect(row).toEqual({ count: 64, least: 16 * MIB });
    const peak = peakBytes();
    if (peak !== null) expect(peak).toBeLessThan(1024 * MIB);
  },
  SLOW_MS,
);

it(
  'ten histories of 40 MiB that are read at once are answered, in less than 1900 MiB',
  async () => {
    await start({ INFLIGHT_BYTES: String(64 * MIB), QUEUE_WAIT_MS: '150000' });
    const threads = Array.from({ length: 10 }, (_, n) => `thread-${n}`);
    const [source_thread_id = '', ...copies] = threads;
    const [parent_checkpoint_id, checkpoint_id] = ['1', '2'];
    const key = { thread_id: source_thread_id, checkpoint_id: parent_checkpoint_id };
    await service.post('put', aPut(key));
    await service.post('put', aPut({ ...key, checkpoint_id, parent_checkpoint_id }));
    const blob = base64(Buffer.alloc(10 * MIB, 7));
    for (let idx = 0; idx < 4; idx += 1) {
      const writes = [{ task_id: 'task', idx, channel: 'a', type: 't', blob }];
      expect((await service.post('put-writes', { ...key, writes })).status).toBe(204);
    }
    for (const target_thread_id of copies)
      await service.post('copy-thread', { source_thread_id, target_thread_id });
    const answers = await Promise.all(
      threads.map(async (thread_id) => {
        const { status, json } = await service.post('delta-channel-history', { thread_id, channels: ['a'] });
        return [status, json.a.writes.filter((write: { blob: string }) => write.blob === blob).length];
      }),
    );
    expect(answers).toEqual(threads.map(() => [200, 4]));
    const peak = peakBytes();
    if (peak !== null) expect(peak).toBeLessThan(1900 * MIB);
  },
  SLOW_MS,
);

it(
  'several processes cut off a client that is slow, too',
  async () => {
    await start({ WORKERS: '2', HEADERS_TIMEOUT_MS: '300', STALL_TIMEOUT_MS: '300' });
    const clients = await Promise.all([1, 2, 3, 4].map(() => RawClient.open(service.url)));
    for (const client of clients.slice(0, 2)) client.write('POST /checkpoints/put HTTP/1.1\r\n');
    for (const client of clients.slice(2)) client.post('put', 'Content-Length: 1000').write('{');
    expect((await service.post('list', {})).status).toBe(200);
    const answers = await Promise.all(clients.map((client) => client.closed()));
    expect(answers.map((answer) => answer.slice(0, 12))).toEqual(['HTTP/1.1 408', 'HTTP/1.1 408', '', '']);
  },
  SLOW_MS,
);
