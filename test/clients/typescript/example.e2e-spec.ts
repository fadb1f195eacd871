import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transformFile } from '@swc/core';
import { startApp, type TestApp } from '../../support/app.js';
import { until } from '../../support/process.js';

const EXAMPLE = fileURLToPath(new URL('../../../examples/typescript/', import.meta.url));
const CLIENT = fileURLToPath(new URL('../../../clients/typescript/', import.meta.url));

let app: TestApp;
let directory: string;
let agentFile: string;
const children = new Set<ChildProcess>();

beforeAll(async () => {
  app = await startApp();
  const { status, stderr } = spawnSync(process.execPath, [join(CLIENT, 'scripts/build.mjs')], {
    encoding: 'utf8',
  });
  expect([status, stderr]).toEqual([0, '']);
  // Inside the example, so that its imports are found; without its types, since Node 20 does not take them.
  mkdirSync(join(EXAMPLE, 'dist'), { recursive: true });
  directory = mkdtempSync(join(EXAMPLE, 'dist/'));
  agentFile = join(directory, 'agent.mjs');
  const { code } = await transformFile(join(EXAMPLE, 'agent.ts'), {
    jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
    module: { type: 'es6' },
  });
  writeFileSync(agentFile, code);
}, 60_000);

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(join(EXAMPLE, 'dist'), { recursive: true, force: true });
  await app.close();
});

/** One process of the example: it is told the lines one by one, each after it has answered, and then killed. */
async function talk(...lines: string[]): Promise<string[]> {
  const child = spawn(process.execPath, [agentFile, 'thread'], {
    env: { PATH: process.env.PATH, CHECKPOINT_URL: app.url },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  children.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  const hasAnswered = (times: number) => () => {
    if (child.exitCode !== null) throw new Error(`It ended: ${output}`);
    return [...output.matchAll(/^agent.*\n/gm)].length === times;
  };
  await until('the agent begins', hasAnswered(1));
  for (const [at, line] of lines.entries()) {
    child.stdin.write(`${line}\n`);
    await until(`the agent answers to ${line}`, hasAnswered(at + 2));
  }
  child.kill('SIGKILL');
  await once(child, 'close');
  children.delete(child);
  return output.trim().split('\n');
}

it('the TypeScript example goes on after it was killed', async () => {
  expect(await talk('Hello', 'Book a table for 4')).toEqual([
    'agent: What can I do for you?',
    'agent: You said 1 things, the last one: Hello',
    'find_table runs with {"guests":"4"}',
    'agent asks: Book table 7 for 4 at 19:00?',
  ]);
  // Another process; the tool does not run again.
  expect(await talk('yes', 'Thanks')).toEqual([
    'agent asks: Book table 7 for 4 at 19:00?',
    'agent: Done: booked table 7 for 4 at 19:00.',
    'agent: You said 3 things, the last one: Thanks',
  ]);
}, 60_000);
