import { setTimeout as delay } from 'node:timers/promises';
import { compareRows } from './history.js';
import { Load } from './load.js';
import type { Row } from './report.js';
import { DATABASE, type World } from './world.js';

const OUTAGE_WAIT_MS = 2000;

/** An outage that is longer than OUTAGE_WAIT_MS, on an instance of its own. */
export async function outlast(world: World, failures: string[]): Promise<Row> {
  const name = 'An outage over the limit';
  const instance = await world.newInstance({ OUTAGE_WAIT_MS: String(OUTAGE_WAIT_MS), QUEUE_WAIT_MS: '1000' });
  const load = new Load('outlast', 8, () => instance.url);
  await load.everyAgentAnswered();
  const residentBefore = instance.residentBytes;
  load.take();
  const begun = performance.now();
  world.network.mode = 'resetting';
  world.network.reset();
  await delay(2 * OUTAGE_WAIT_MS);
  if (await instance.isReady()) failures.push(`${name}: it said that it was ready`);
  const during = load.take();
  if (!during.errors.has('503 /problems/database-unavailable'))
    failures.push(`${name}: no request got a 503`);
  world.network.mode = 'open';
  const healed = performance.now();
  await load.everyAgentAnswered();
  while (!(await instance.isReady())) await delay(20);
  const recovered = performance.now();
  load.take(); // those that were under way
  await delay(1000);
  const after = load.take();
  const histories = await load.stop();
  for (const [error, count] of [...during.errors, ...after.errors]) {
    const allowed =
      during.errors.has(error) && error === '503 /problems/database-unavailable' && !after.errors.has(error);
    if (!allowed) failures.push(`${name}: ${count} × ${error}`);
  }
  const { lost, strange } = await compareRows(world.postgres, DATABASE, histories);
  if (lost.length + strange.length > 0)
    failures.push(`${name}: ${lost.length} rows lost, ${strange.length} strange`);
  const row = {
    name,
    what: `the network resets all connections for ${(2 * OUTAGE_WAIT_MS) / 1000} s, \`OUTAGE_WAIT_MS\` is ${OUTAGE_WAIT_MS}`,
    requests: during.requests + after.requests,
    acknowledged: during.acknowledged + after.acknowledged,
    errors: during.errors,
    wrong: during.wrong.length + after.wrong.length,
    retries: instance.retries,
    lost: lost.length,
    faultMs: healed - begun,
    recoveryMs: recovered - healed,
    longestMs: Math.max(during.longestMs, after.longestMs),
    residentBefore,
    residentAfter: instance.residentBytes,
  };
  await instance.end('SIGTERM');
  return row;
}
