import { spawnSync } from 'node:child_process';
import { type Page, pageOf, pages } from './support/markdown.js';
import { examplesOf, faultsOf, isSlow, missingTools } from './support/examples.js';

/** `npm run test:docs` sets it. Installing packages for the examples of a page takes minutes on a slow network. */
const { DOCS_EXAMPLES = 'quick' } = process.env;
const TIMEOUT_MS = DOCS_EXAMPLES === 'all' ? 600_000 : 80_000;

const has = (tool: string) => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0;

const reasonToSkip = (page: Page): string | null => {
  if (isSlow(page) && DOCS_EXAMPLES !== 'all') return 'it takes minutes; npm run test:docs runs it';
  const missing = missingTools(page, has);
  return missing.length > 0 ? `it needs ${missing.join(', ')}` : null;
};

const PAGES = pages().filter((page) => examplesOf(page).length > 0);
const skipped = PAGES.filter((page) => reasonToSkip(page) !== null);
if (skipped.length > 0) {
  const lines = skipped.map((page) => `  ${page.name}: ${reasonToSkip(page)}`);
  console.log(`The examples of these pages were NOT run:\n${lines.join('\n')}`);
}

it.each(PAGES.filter((page) => !skipped.includes(page)))(
  '$name: its examples do what it says',
  async (page) => {
    expect(await faultsOf(page, { timeoutMs: TIMEOUT_MS })).toEqual([]);
  },
  TIMEOUT_MS + 10_000,
);

it.each([
  { text: 'false\ntrue', fault: 'ended with 1' },
  { text: 'curl -s "$URL/nowhere"', fault: 'status 404' },
  { text: 'curl -s "$URL/nowhere"   # 404, there is no such route', fault: null },
  { text: 'curl -s http://127.0.0.1:5003/health/live', answer: '{ "status": "ok" }', fault: null },
  { text: 'curl -s http://127.0.0.1:5003/health/live', answer: '{ "status": "no" }', fault: 'did not print' },
])('notices a broken example: $text', async ({ text, answer, fault }) => {
  const page = pageOf(
    'docs/example.md',
    `\`\`\`sh\n${text}\n\`\`\`\n` + (answer === undefined ? '' : `\n\`\`\`json\n${answer}\n\`\`\`\n`),
  );
  const faults = await faultsOf(page, { timeoutMs: TIMEOUT_MS });
  expect(faults).toEqual(
    fault === null ? [] : [expect.stringContaining(`docs/example.md, line 1: ${fault}`)],
  );
});
