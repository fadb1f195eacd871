import type { Measure } from './measures.js';
import { type CandidateName, PROFILES } from './profiles.js';

/** A bound for the median of a measure, or of its ratio to that of another candidate. */
export interface Target {
  profile: string;
  measure: Measure;
  candidate: CandidateName;
  /** Null: the measure itself is bounded. */
  versus: CandidateName | null;
  bound: Bound;
}

export type Bound = { atLeast: number } | { atMost: number };

function target(
  profile: string,
  versus: CandidateName | null,
  bound: Bound,
  measure: Measure = 'operations/s',
  candidate: CandidateName = 'service',
): Target {
  return { profile, measure, candidate, versus, bound };
}

/** The service may compress its tables where the server has lz4; those of E are plain. */
export function targets(hasLz4: boolean): Target[] {
  const blobs = { atLeast: hasLz4 ? 1.25 : 1 };
  return [
    target('agent-step-1', 'E', { atLeast: 0.9 }),
    target('agent-step-16', 'E', { atLeast: 1.15 }),
    target('agent-step-16', 'python', { atLeast: 1.5 }),
    target('agent-step-16', 'E', { atMost: 1.25 }, 'service CPU, µs'),
    target('agent-step-64', 'E', { atLeast: 1.5 }),
    target('agent-step-64', 'pgbench', { atLeast: 1 }),
    target('agent-step-64', 'E', { atMost: 0.5 }, 'Postgres CPU, µs'),
    target('agent-step-256', 'E', { atLeast: 1.8 }),
    target('agent-step-256', 'E', { atMost: 1 }, 'p99, ms'),
    target('get-tuple', 'E', { atLeast: 0.9 }),
    target('put', 'E', { atLeast: 1.1 }),
    target('put-writes', 'E', { atLeast: 1 }),
    target('list-10', 'E', { atLeast: 0.9 }),
    target('list-100', 'E', { atLeast: 0.9 }),
    target('delete-thread', 'E', { atLeast: 0.9 }),
    target('blobs-1mb', 'E', blobs),
    target('blobs-8mb', 'E', blobs),
    target('memory', null, { atMost: 300 }, 'peak, MB'),
    ...['agent-step-16', 'agent-step-64', 'get-tuple', 'put', 'put-writes', 'list-10'].map((profile) =>
      target(profile, 'service', { atLeast: 0.95 }, 'operations/s', 'keys'),
    ),
    ...PROFILES.filter(({ name }) => name.startsWith('growth-')).map(({ name }) =>
      target(name, 'grown', { atMost: 1.2 }, 'operations/s', 'small'),
    ),
  ];
}
