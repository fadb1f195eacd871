// npm run conformance: runs the published suites against both clients and writes docs/reference/conformance.md; with --keys it runs
// them with AUTH_MODE=keys, and writes nothing.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const withKeys = process.argv.includes('--keys');
const directory = mkdtempSync(join(tmpdir(), 'conformance-'));
const run = (command, args) => {
  const { status } = spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'], env });
  if (status !== 0) throw new Error(`${command} ended with ${status}: the report was not written`);
};
const env = { ...process.env };
if (withKeys) {
  const { newKeyText, partsOf } = await import('../../dist/src/auth/domain/api-key.js');
  const key = newKeyText();
  const { id, hash } = partsOf(key);
  const file = join(directory, 'keys.json');
  const scopes = ['read', 'write', 'delete'];
  // The default tenant's: some tests look into the tables, by the ids that they sent.
  writeFileSync(file, JSON.stringify([{ id, name: 'suites', scopes, hash: hash.toString('hex') }]));
  // For Jest, and for Python, whose service takes the settings of the environment.
  Object.assign(env, { TEST_SETTINGS: JSON.stringify({ AUTH_MODE: 'keys' }) });
  Object.assign(env, { AUTH_MODE: 'keys', API_KEYS_FILE: file, CHECKPOINT_TEST_KEY: key });
}
const versionOf = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;

const jestReport = join(directory, 'jest.json');
const pythonReport = join(directory, 'python.md');
try {
  run(process.execPath, [
    ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
    ...['test/clients/typescript/conformance', '--json', `--outputFile=${jestReport}`],
  ]);
  run('clients/python/conformance-report', [pythonReport]);

  if (withKeys) console.log(readFileSync(pythonReport, 'utf8'));
  else writeReport();
} finally {
  rmSync(directory, { recursive: true, force: true });
}

function writeReport() {
  const { testResults } = JSON.parse(readFileSync(jestReport, 'utf8'));
  const byMethod = new Map();
  for (const { ancestorTitles, status } of testResults.flatMap((file) => file.assertionResults)) {
    const method = ancestorTitles.slice(0, 2).join(', ');
    const count = byMethod.get(method) ?? { passed: 0, all: 0 };
    byMethod.set(method, { passed: count.passed + (status === 'passed' ? 1 : 0), all: count.all + 1 });
  }
  const rows = [...byMethod].map(([method, { passed, all }]) => `| ${method} | ${passed} of ${all} |`);
  const all = [...byMethod.values()].reduce((sum, count) => sum + count.all, 0);
  const passed = [...byMethod.values()].reduce((sum, count) => sum + count.passed, 0);
  writeFileSync(
    'docs/reference/conformance.md',
    `# Conformance

Written by \`npm run conformance\`, which runs the suites that LangGraph publishes for checkpointers, over HTTP, on a real
Postgres.

## JavaScript

\`@langchain/langgraph-checkpoint-validation\` ${versionOf('@langchain/langgraph-checkpoint-validation')} against
\`langgraph-checkpoint-http\` ${versionOf('langgraph-checkpoint-http')}, with \`@langchain/langgraph-checkpoint\`
${versionOf('@langchain/langgraph-checkpoint')}, Node ${process.version}: **${passed} of ${all}** tests passed.

| Suite | Passed |
| --- | --- |
${rows.join('\n')}

${readFileSync(pythonReport, 'utf8').trim()}
`,
  );
  run(process.execPath, [
    'node_modules/prettier/bin/prettier.cjs',
    '--write',
    'docs/reference/conformance.md',
  ]);
}
