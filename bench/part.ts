import type { Candidate } from './candidates/candidate.js';
import { Served } from './candidates/served.js';
import { type Rows, changedRows } from './database.js';
import type { LoadResult } from './load.js';
import { type Cost, Meter } from './measure.js';
import type { Profile } from './profiles.js';

/** What one candidate did in one timed part. */
export interface Sample extends Cost {
  operationsPerSecond: number;
  operations: number;
  latencyMs: LoadResult['latencyMs'];
}

/** How large a part is. */
export interface Scale {
  warmUpSeconds: number;
  seconds: number;
  /** Stores this share of the profiles' threads. */
  threads: number;
}

/** Runs one profile on one candidate. @throws Error when an answer or the rows in the database are wrong */
export async function measure(
  candidate: Candidate,
  profile: Profile,
  scale: Scale,
  postmaster: number | null,
): Promise<Sample> {
  if (profile.isFresh === true && candidate instanceof Served) {
    const fresh = await candidate.another();
    const sample = await measure(fresh, { ...profile, isFresh: false }, scale, postmaster);
    await fresh.stop();
    return sample;
  }
  const { shape, agents, walk, operations, page, share = 1 } = profile;
  const { database } = candidate;
  const { threads, checkpoints } = await candidate.reload(profile, scale.threads);
  const changes = operations.some((operation) => operation !== 'get-tuple' && operation !== 'list');
  const stored = changes ? await database.rows() : null;
  let meter: Meter | undefined;
  let cost: Cost | undefined;
  const result = await candidate.run(
    {
      ...{ shape, agents, walk, operations, threads, checkpoints },
      page: page ? { ...page, before: beforeOf(page.from, page.limit, checkpoints) } : null,
      warmUpMs: scale.warmUpSeconds * share * 1000,
      timedMs: scale.seconds * share * 1000,
    },
    {
      begin: () => (meter = new Meter(candidate.pid, postmaster)),
      end: () => (cost = meter?.cost()),
    },
  );
  if (cost === undefined) throw new Error(`${candidate.name} did not say when its part began and ended`);
  if (stored !== null) {
    const changed = changedRows(shape, checkpoints, result.acknowledged);
    expectRows(await database.rows(), stored, changed);
  }
  const { operations: count, seconds, latencyMs } = result;
  return { ...cost, operations: count, operationsPerSecond: count / seconds, latencyMs };
}

/** The number of the checkpoint that a page begins below. */
function beforeOf(from: 'head' | 'middle' | 'tail', limit: number, checkpoints: number): number | null {
  if (from === 'head') return null;
  return from === 'middle' ? checkpoints / 2 : limit;
}

function expectRows(rows: Rows, before: Rows, changed: Rows): void {
  for (const table of ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes'] as const) {
    const expected = before[table] + changed[table];
    if (rows[table] !== expected) {
      throw new Error(`${table} holds ${rows[table]} rows; with those acknowledged it would be ${expected}`);
    }
  }
}
