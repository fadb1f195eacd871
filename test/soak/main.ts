/**
 * npm run test:soak: several tenants use two instances of the service at once, politely and not, with little memory for
 * bodies and answers. Every answer is compared, byte by byte, with what its tenant has stored.
 *
 *   SOAK_SECONDS   how long (60)
 *   SOAK_SEED      of another run, to ask for the same again
 *   SOAK_STORAGE   delta (default) or whole; of the two instances one has hardly any memory for values
 *   SOAK_INFLIGHT_BYTES   the memory of an instance for bodies and answers (32 MiB)
 */
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { newKeyText, partsOf } from '../../src/auth/domain/api-key.js';
import { DATABASE, ROLE, World } from '../faults/world.js';
import { Caller, GaveUpError, type Service, type Tenant } from './caller.js';
import { Chance } from './chance.js';
import { tenantsIn } from './content.js';
import { Findings } from './findings.js';
import { Keeper } from './keeper.js';
import { Noise } from './noise.js';
import { Racers, type StoredRows } from './racers.js';
import { Reader } from './reader.js';

const SECONDS = Number(process.env.SOAK_SECONDS ?? 60);
const SEED = Number(process.env.SOAK_SEED ?? randomInt(2 ** 31));
const INFLIGHT_BYTES = Number(process.env.SOAK_INFLIGHT_BYTES ?? 32 * 1024 * 1024);
const STORAGE = process.env.SOAK_STORAGE ?? 'delta';
const TENANTS = ['north', 'south', 'west'];
/** A tenant that does nothing but race, with the memory of none of its own to wait for. */
const RACER = 'east';
const RACING = 5;
const SAY_EVERY_MS = 30_000;
/** After the end; a run that takes longer hangs. */
const GRACE_MS = 300_000;

const say = (line: string) => process.stdout.write(`${line}\n`);
const findings = new Findings();
const begun = performance.now();
const seconds = () => Math.round((performance.now() - begun) / 1000);
let isOver = false;
const over = () => isOver;

async function aTenant(world: World, name: string): Promise<Tenant> {
  const key = newKeyText();
  const { id, hash } = partsOf(key);
  await world.postgres.sql(
    `insert into api_keys (id, tenant, name, scopes, hash) values ($1, $2, 'soak', '{read,write,delete}', $3)`,
    [id, name, hash],
    DATABASE,
  );
  return { name, key };
}

/** Rows of a tenant's thread, from the tables. */
function rowsIn(client: pg.Pool) {
  return async (tenant: string, threadId: string): Promise<StoredRows> => {
    const { rows } = await client.query<{ kind: keyof StoredRows; key: string }>(
      `select 'checkpoints' as kind, checkpoint_id as key from checkpoints where thread_id = $1
        union all
       select 'blobs', channel || ' ' || version from checkpoint_blobs where thread_id = $1
        union all
       select 'writes', checkpoint_id || ' ' || task_id || ' ' || idx from checkpoint_writes where thread_id = $1`,
      [`\u0001${tenant}\u0001${threadId}`],
    );
    const found: StoredRows = { checkpoints: [], blobs: [], writes: [] };
    for (const { kind, key } of rows) found[kind].push(key);
    return found;
  };
}

/** What is stored in the end, beside what the service says of it. */
async function compareTables(client: pg.Pool): Promise<void> {
  const missing = await client.query<{ thread_id: string; checkpoint_id: string; channel: string }>(
    `select c.thread_id, c.checkpoint_id, v.key as channel
       from checkpoints c
      cross join jsonb_each_text(c.checkpoint -> 'channel_versions') as v
      where v.key <> 'log'
        and not exists (select from checkpoint_blobs b
                         where b.thread_id = c.thread_id and b.channel = v.key and b.version = v.value)`,
  );
  for (const row of missing.rows) findings.fault('lost', `a blob that is named: ${JSON.stringify(row)}`);
  const orphaned = await client.query<{ thread_id: string; channel: string; version: string }>(
    `select thread_id, channel, version
       from checkpoint_blobs b
      where not exists (select from checkpoints c where c.thread_id = b.thread_id)`,
  );
  for (const row of orphaned.rows)
    findings.fault('returned', `a blob without its thread: ${JSON.stringify(row)}`);
  for (const table of ['checkpoint_blobs', 'checkpoint_writes']) {
    const keys = await client.query<{ ctid: string; thread_id: string }>(
      `select ctid, thread_id from ${table}`,
    );
    for (const { ctid, thread_id } of keys.rows) {
      const { rows } = await client.query<{ blob: Buffer }>(`select blob from ${table} where ctid = $1`, [
        ctid,
      ]);
      const [, tenant = ''] = thread_id.split('\u0001');
      if (thread_id.endsWith('-never'))
        findings.fault('misjudged', `stored of an invalid request: ${thread_id}`);
      for (const owner of tenantsIn(rows[0]?.blob ?? Buffer.alloc(0)))
        if (owner !== tenant) findings.fault('foreign', `stored in ${thread_id} is content of ${owner}`);
    }
  }
}

/** @returns the most that each instance had resident, in MB */
async function soak(world: World): Promise<number[]> {
  const environment = {
    AUTH_MODE: 'keys',
    INSTANCES: '2',
    INFLIGHT_BYTES: String(INFLIGHT_BYTES),
    AUDIT_LOG: 'off',
    BLOB_STORAGE: STORAGE,
    DATABASE_URL: `postgresql://${ROLE}:agents@127.0.0.1:${world.postgres.port}/${DATABASE}`,
  };
  const instances = [
    await world.newInstance(environment),
    await world.newInstance({ ...environment, DELTA_MEMORY_BYTES: '500000' }),
  ];
  const service: Service = { urls: instances.map(({ url }) => url), findings };
  let agents = 0;
  const caller = (tenant: Tenant) => new Caller(service, tenant, new Chance(SEED + 7919 * (agents += 1)));
  const url = new URL(world.postgres.url);
  url.pathname = `/${DATABASE}`;
  const client = new pg.Pool({ connectionString: url.href, max: 4 });
  const [work, checks]: [(() => Promise<void>)[], (() => Promise<void>)[]] = [[], []];
  const racers = (tenant: Tenant, n: number) =>
    new Racers(
      `${tenant.name}-racers-${n}`,
      Array.from({ length: RACING }, () => caller(tenant)),
      rowsIn(client),
      over,
    );
  const racer = await aTenant(world, RACER);
  for (const n of [1, 2, 3, 4, 5, 6]) work.push(() => racers(racer, n).live());
  for (const name of TENANTS) {
    const tenant = await aTenant(world, name);
    const reader = new Reader(`${name}-vault`, caller(tenant), over);
    await reader.store();
    const second = new Reader(`${name}-vault`, caller(tenant), over);
    const keepers = [1, 2].map((n) => new Keeper(`${name}-keeper-${n}`, caller(tenant), over));
    const large = Reader.threadsOf(`${name}-vault`).at(-1)!;
    const noise = new Noise(`${name}-noise`, caller(tenant), large, INFLIGHT_BYTES / 2, over);
    for (const one of [reader, second, ...keepers, racers(tenant, 1), noise]) work.push(() => one.live());
    for (const one of [reader, ...keepers]) checks.push(() => one.checkAll());
  }
  const highest = instances.map(() => 0);
  const sampler = setInterval(() => {
    for (const [n, instance] of instances.entries())
      highest[n] = Math.max(highest[n]!, (instance.residentBytes ?? 0) / 1e6);
  }, 250);
  const teller = setInterval(() => {
    say(`  ${seconds()} s: ${findings.requests} requests, ${findings.checks} comparisons, ${describe()}`);
  }, SAY_EVERY_MS);
  const end = delay(SECONDS * 1000).then(() => (isOver = true));
  const guarded = work.map(async (live) => {
    try {
      await live();
    } catch (error) {
      if (!(error instanceof GaveUpError)) throw error;
      findings.fault('broken', error.message);
    }
  });
  await Promise.all([end, ...guarded]);
  clearInterval(teller);
  say(`${seconds()} s: all is compared once more`);
  for (const check of checks) await check();
  await compareTables(client);
  clearInterval(sampler);
  await client.end();
  for (const [n, { url: own }] of instances.entries()) {
    const metrics = await (await fetch(`${own}/metrics`)).text();
    const kinds = [...metrics.matchAll(/blobs_stored_total\{kind="(\w+)"\} (\d+)/g)].map(
      ([, kind, count]) => `${kind} ${count}`,
    );
    say(`  instance ${n + 1} stored values: ${kinds.join(', ')}`);
  }
  for (const instance of instances) {
    const code = await instance.end('SIGTERM');
    if (code !== 0) findings.fault('broken', `an instance ended with ${code ?? 'a signal'}`);
  }
  return highest;
}

const describe = () =>
  [...findings.faults].map(([kind, count]) => `${kind} ${count}`).join(', ') || 'no fault';

say(`A soak of ${SECONDS} s, SOAK_SEED=${SEED}, INFLIGHT_BYTES=${INFLIGHT_BYTES}, ${STORAGE}`);
const world = await World.create();
const stop = async (reason: string) => {
  say(`FAILED: ${reason}`);
  for (const example of findings.examples) say(`FAILED: ${example}`);
  await world.end();
  process.exit(1);
};
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop(signal));
setTimeout(() => void stop(`it hangs, see ${world.logFile}`), SECONDS * 1000 + GRACE_MS).unref();
let highest: number[] = [];
try {
  highest = await soak(world);
} catch (error) {
  findings.fault('broken', error instanceof Error ? (error.stack ?? error.message) : String(error));
} finally {
  await world.end();
}
for (const [what, count] of [...findings.answers].sort()) say(`  ${what}: ${count}`);
say(
  `${findings.requests} requests, ${findings.rounds} rounds of races, ${findings.checks} comparisons, ` +
    `${Math.round(findings.comparedBytes / 1e6)} MB of answers; the most memory of an instance ` +
    `${highest.map((megabytes) => `${Math.round(megabytes)} MB`).join(', ')}; ${describe()}`,
);
for (const example of findings.examples) say(`FAILED: ${example}`);
process.exit(findings.faults.size > 0 ? 1 : 0);
