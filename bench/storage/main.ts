/**
 * npm run bench:storage: what BLOB_STORAGE=delta brings and costs, next to `whole` in the same round: steps of agents whose state grows,
 * on one instance and on two in turn. Each step is a put of the state with some 700 bytes more, a put-writes, and every third a get-tuple.
 * Prints a table of medians; ratios are to `whole` of the same round.
 *
 *   --rounds N     how often (3)
 *   --seconds N    length of a part (8)
 *   --states LIST  KB of the states (4,20,100,500)
 */
import { randomBytes, randomUUID } from 'node:crypto';
import http from 'node:http';
import { parseArgs } from 'node:util';
import { SERVICE, Served } from '../candidates/served.js';
import { Database, inspect } from '../database.js';
import { Meter } from '../measure.js';
import { runWithServer } from '../run.js';
import { shown, spreadOf } from '../spread.js';
import { table } from '../table.js';

const { values: given } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '8' },
    states: { type: 'string', default: '4,20,100,500' },
  },
});
const AGENTS = 16;
const MESSAGE_BYTES = 700;
const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

/** One way to store, and the instances that its agents use in turn. */
interface Way {
  name: string;
  instances: Served[];
  database: Database;
}

interface Sample {
  stepsPerSecond: number;
  postgresCpuUs: number;
  serviceCpuUs: number;
  walBytes: number;
}

function post(url: string, operation: string, body: object): Promise<void> {
  const text = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = http.request(
      `${url}/checkpoints/${operation}`,
      {
        ...{ method: 'POST', agent },
        headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
      },
      (answer) => {
        answer.resume();
        answer.on('end', () => {
          if ((answer.statusCode ?? 500) < 300) resolve();
          else reject(new Error(`${operation} got ${answer.statusCode}`));
        });
      },
    );
    request.on('error', reject);
    request.end(text);
  });
}

/** Stores steps of one thread until `over`; returns how many. */
async function runAgent(urls: string[], stateBytes: number, over: () => boolean): Promise<number> {
  const thread_id = randomUUID();
  let state = Buffer.concat([Buffer.alloc(5), textOf(stateBytes)]);
  let sent = 0;
  const send = (operation: string, body: object) =>
    post(urls[(sent += 1) % urls.length] as string, operation, { thread_id, checkpoint_ns: '', ...body });
  let steps = 0;
  for (let n = 1; !over(); n += 1) {
    state = Buffer.concat([state, textOf(MESSAGE_BYTES)]);
    state.writeUInt32BE(n, 1);
    const checkpoint_id = String(n).padStart(8, '0');
    const parent = n === 1 ? null : String(n - 1).padStart(8, '0');
    await send('put', {
      ...{ checkpoint_id, parent_checkpoint_id: parent, metadata: { step: n } },
      checkpoint: { v: 4, channel_values: {}, channel_versions: { messages: String(n) } },
      blobs: [{ channel: 'messages', version: String(n), type: 'msgpack', blob: state.toString('base64') }],
    });
    const blob = textOf(MESSAGE_BYTES).toString('base64');
    const writes = [0, 1].map((idx) => ({
      task_id: 'task',
      idx,
      channel: 'messages',
      type: 'msgpack',
      blob,
    }));
    await send('put-writes', { checkpoint_id, writes });
    if (n % 3 === 0) await send('get-tuple', {});
    steps += 1;
  }
  return steps;
}

/** Compresses as prose does: half of it repeats. */
function textOf(bytes: number): Buffer {
  return Buffer.from(
    randomBytes(Math.ceil(bytes / 2))
      .toString('hex')
      .slice(0, bytes),
  );
}

async function measure(way: Way, stateBytes: number, postmaster: number | null): Promise<Sample> {
  await way.database.query('checkpoint');
  const wal = async () => {
    const [row] = await way.database.query<{ at: string }>(
      `select pg_current_wal_insert_lsn() - '0/0' as at`,
    );
    return Number(row?.at);
  };
  const urls = way.instances.map(({ address }) => address);
  const meters = way.instances.map(({ pid }) => new Meter(pid, postmaster));
  const [walBegin, begun] = [await wal(), performance.now()];
  const end = begun + Number(given.seconds) * 1000;
  const steps = await Promise.all(
    Array.from({ length: AGENTS }, () => runAgent(urls, stateBytes, () => performance.now() > end)),
  );
  const all = steps.reduce((sum, n) => sum + n, 0);
  const costs = meters.map((meter) => meter.cost());
  const seconds = (performance.now() - begun) / 1000;
  return {
    stepsPerSecond: all / seconds,
    postgresCpuUs: (costs[0]?.postgresCpuUs ?? NaN) / all,
    serviceCpuUs: costs.reduce((sum, { serviceCpuUs }) => sum + (serviceCpuUs ?? NaN), 0) / all,
    walBytes: ((await wal()) - walBegin) / all,
  };
}

async function open(serverUrl: string, name: string, storage: string, instances: number): Promise<Way> {
  const database = await Database.create(serverUrl, `bench_storage_${name}`);
  const first = await new Served('service', database, SERVICE, { BLOB_STORAGE: storage }).start();
  const more = await Promise.all(Array.from({ length: instances - 1 }, () => first.another()));
  return { name, instances: [first, ...more], database };
}

await runWithServer('storage', async (serverUrl) => {
  const { postmaster } = await inspect(serverUrl);
  const ways = [
    await open(serverUrl, 'whole', 'whole', 1),
    await open(serverUrl, 'delta', 'delta', 1),
    await open(serverUrl, 'whole2', 'whole', 2),
    await open(serverUrl, 'delta2', 'delta', 2),
  ];
  const rows: string[][] = [];
  for (const kilobytes of given.states.split(',').map(Number)) {
    const samples = new Map(ways.map(({ name }) => [name, [] as Sample[]]));
    for (let round = 0; round < Number(given.rounds); round += 1) {
      for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
        samples.get(way.name)?.push(await measure(way, kilobytes * 1000, postmaster));
      }
    }
    for (const [name, base] of [
      ['delta', 'whole'],
      ['delta2', 'whole2'],
    ] as const) {
      const ratio = (of: keyof Sample) =>
        shown(
          spreadOf(
            (samples.get(name) ?? []).map((sample, n) => sample[of] / (samples.get(base)?.[n]?.[of] ?? NaN)),
          ),
        );
      const median = (way: string, of: keyof Sample) =>
        spreadOf((samples.get(way) ?? []).map((sample) => sample[of]))?.median ?? NaN;
      rows.push([
        `${kilobytes} KB, ${name === 'delta' ? 'one instance' : 'two in turn'}`,
        median(base, 'stepsPerSecond').toFixed(0),
        ...(['stepsPerSecond', 'postgresCpuUs', 'serviceCpuUs', 'walBytes'] as const).map(ratio),
        `${(median(base, 'walBytes') / 1000).toFixed(1)} → ${(median(name, 'walBytes') / 1000).toFixed(1)} KB`,
      ]);
    }
  }
  const header = [
    'state, 16 agents',
    'steps/s whole',
    'steps/s',
    'Postgres CPU',
    'service CPU',
    'WAL',
    'WAL a step',
  ];
  console.log(table(header, rows));
  for (const way of ways) for (const instance of way.instances) await instance.stop();
});
