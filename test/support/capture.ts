import { readFileSync } from 'node:fs';
import { canonical, parseExact, type Exact } from './exact.js';

export interface Exchange {
  seq: number;
  path: string;
  request: string;
  status: number;
  response: string | null;
}

/** What agents asked the original backend, and what it answered. */
export const exchanges = readFileSync(
  new URL('../fixtures/agentex-langgraph.ndjson', import.meta.url),
  'utf8',
)
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as Exchange);

/** The original backend did not order blobs; all else is compared as it came, numbers by their literals. */
export function meaning(text: string): string {
  const sorted = (value: Exact): Exact => {
    if (Array.isArray(value)) return value.map(sorted);
    if (!(value instanceof Map)) return value;
    const entries = [...value].map(([key, inner]): [string, Exact] => [
      key,
      key === 'blobs' && Array.isArray(inner)
        ? inner.toSorted((a, b) => (canonical(a) < canonical(b) ? -1 : 1))
        : sorted(inner),
    ]);
    return new Map(entries);
  };
  return text === '' ? '' : canonical(sorted(parseExact(text)));
}
