import { readFileSync } from 'node:fs';
import { type TestApp, startApp } from './support/app.js';
import { canonical, parseExact, type Exact } from './support/exact.js';

interface Exchange {
  seq: number;
  path: string;
  request: string;
  status: number;
  response: string | null;
}

const exchanges = readFileSync(new URL('./fixtures/agentex-langgraph.ndjson', import.meta.url), 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => JSON.parse(line) as Exchange);

/** The original backend did not order blobs; all else is compared as it came, numbers by their literals. */
function meaning(text: string): string {
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

describe('the capture of real agents', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  it('holds 59 exchanges', () => {
    expect(exchanges).toHaveLength(59);
  });

  it.each(exchanges)('answers exchange $seq, $path, as the original did', async (exchange) => {
    const answer = await app.post(exchange.path.replace('/checkpoints/', ''), exchange.request);
    expect(answer.status).toBe(exchange.status);
    expect(meaning(answer.text)).toBe(meaning(exchange.response ?? ''));
  });
});
