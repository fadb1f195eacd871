import type { Walk } from './load.js';
import type { Shape } from './payload.js';
import type { Operation } from './store.js';

export const CANDIDATES = ['service', 'service-off', 'keys', 'E', 'javascript', 'python', 'pgbench'] as const;
/** The service on a small database and on one that has grown: chosen with the service. */
const GROWTH = ['small', 'grown'] as const;
export type CandidateName = (typeof CANDIDATES | typeof GROWTH)[number];

/** Threads that are there before a part, and the checkpoints of each. */
interface Stored {
  threads: number;
  checkpoints: number;
}

export interface Profile {
  name: string;
  agents: number;
  shape: Shape;
  /** A grown database has more. */
  stored: Stored;
  walk: Walk;
  operations: Operation[];
  page?: { limit: number; from: 'head' | 'middle' | 'tail'; withNamespace: boolean; withFilter: boolean };
  candidates: readonly CandidateName[];
  /** Runs on a process of its own. */
  isFresh?: boolean;
  /** Its warm-up and its part take this share of the ordinary time. */
  share?: number;
}

const AGENT: Shape = { channels: 8, freshChannels: 2, blobBytes: 2048, tasks: 2, writeBytes: 1024 };
const READ: Shape = { ...AGENT, tasks: 1 };
const NARROW: Shape = { ...READ, blobBytes: 256, writeBytes: 256 };

const HTTP = ['service', 'service-off', 'E'] as const;
/** Of the operations that agents wait for it is known what keys cost. */
const HOT = [...HTTP, 'keys'] as const;
const SAVERS = [...HOT, 'javascript', 'python'] as const;

/** Enough rows that plans are those of a table in use. */
const SOME: Stored = { threads: 100, checkpoints: 20 };
const THREADS_OF_20 = { kind: 'new threads', steps: 20 } as const;
const ANY = { kind: 'stored threads' } as const;

const agentStep = (agents: number, candidates: readonly CandidateName[]): Profile => ({
  ...{ name: `agent-step-${agents}`, agents, candidates, shape: AGENT, stored: SOME, walk: THREADS_OF_20 },
  operations: ['put', 'put-writes', 'get-tuple'],
});

const stores = (operation: 'put' | 'put-writes'): Profile => ({
  ...{ name: operation, agents: 16, candidates: SAVERS, shape: AGENT, stored: SOME, walk: THREADS_OF_20 },
  operations: [operation],
});

const list = (limit: number): Profile => ({
  ...{ name: `list-${limit}`, agents: 16, candidates: HOT, shape: NARROW, walk: ANY, operations: ['list'] },
  stored: { threads: 8, checkpoints: 1000 },
  page: { limit, from: 'head', withNamespace: true, withFilter: false },
});

const blobs = (name: string, megabytes: number): Profile => ({
  ...{ name, agents: 4, candidates: HTTP, stored: SOME, share: 2 },
  shape: { channels: 1, freshChannels: 1, blobBytes: megabytes * 2 ** 20, tasks: 0, writeBytes: 0 },
  walk: { kind: 'new threads', steps: 2 },
  operations: ['put', 'get-tuple'],
});

const growth = (name: string, operation: Operation, page?: Profile['page']): Profile => ({
  ...{ name: `growth-${name}`, agents: 1, candidates: GROWTH, shape: NARROW, share: 0.25 },
  stored: { threads: 1, checkpoints: 100 },
  walk: operation === 'put' ? { kind: 'append' } : ANY,
  operations: [operation],
  ...(page && { page }),
});

const growthLists = (['head', 'middle', 'tail'] as const).flatMap((from) => [
  growth(`list-${from}`, 'list', { limit: 10, from, withNamespace: true, withFilter: false }),
  growth(`list-${from}-any-namespace`, 'list', { limit: 10, from, withNamespace: false, withFilter: false }),
  growth(`list-${from}-filter`, 'list', { limit: 10, from, withNamespace: true, withFilter: true }),
]);

export const PROFILES: Profile[] = [
  agentStep(1, HOT),
  agentStep(16, [...SAVERS, 'pgbench']),
  agentStep(64, [...SAVERS, 'pgbench']),
  agentStep(256, HOT),
  {
    ...{ name: 'get-tuple', agents: 16, candidates: SAVERS, shape: READ, walk: ANY },
    stored: { threads: 32, checkpoints: 100 },
    operations: ['get-tuple'],
  },
  stores('put'),
  stores('put-writes'),
  list(10),
  list(100),
  {
    ...{ name: 'delete-thread', agents: 8, candidates: HTTP, shape: READ, walk: { kind: 'each thread' } },
    stored: { threads: 240, checkpoints: 100 },
    operations: ['delete-thread'],
  },
  blobs('blobs-1mb', 1),
  blobs('blobs-8mb', 8),
  { ...blobs('memory', 8), isFresh: true },
  growth('get-tuple', 'get-tuple'),
  ...growthLists,
  growth('put', 'put'),
];

/** What the others of a profile are compared with. */
export function baselineOf({ candidates }: Profile): CandidateName {
  return candidates.includes('small') ? 'small' : 'E';
}

/** The profiles with these names; a name also stands for all that begin with it: `agent-step`, `growth`. */
export function chosenProfiles(names: string[] | null): Profile[] {
  if (names === null) return PROFILES;
  const isMeant = (profile: Profile, name: string) =>
    profile.name === name || profile.name.startsWith(`${name}-`);
  for (const name of names) {
    if (PROFILES.some((profile) => isMeant(profile, name))) continue;
    throw new Error(`No profile ${name}; there are ${PROFILES.map((profile) => profile.name).join(', ')}`);
  }
  return PROFILES.filter((profile) => names.some((name) => isMeant(profile, name)));
}
