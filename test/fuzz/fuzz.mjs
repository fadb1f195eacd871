// The service in a process of its own, on an embedded Postgres, against inputs that nobody sends on purpose. It must answer
// each in time, never with a 5xx, live on, and stay in its memory. Argument: the program schemathesis, which then runs too.
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { inputs } from './inputs.mjs';
import { send } from './send.mjs';

const MAIN = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));
const HOOKS = fileURLToPath(new URL('hooks.py', import.meta.url));
const schemathesis = process.argv[2];
const seed = Number(process.env.FUZZ_SEED ?? randomInt(2 ** 31));
const seconds = Number(process.env.FUZZ_SECONDS ?? 12);
const examples = process.env.FUZZ_EXAMPLES ?? '25';
/** So many inputs are under way at once. */
const AGENTS = 32;
/** No answer may take longer, however busy the machine. */
const ANSWER_MS = 30_000;
const MEMORY_BYTES = 1024 ** 3;
const CHECKS = [
  ...['not_a_server_error', 'status_code_conformance', 'content_type_conformance'],
  ...['response_headers_conformance', 'response_schema_conformance'],
].join();
const STATUSES = new Set([0, 200, 204, 400, 404, 408, 413, 415, 417, 422, 431]);

const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-fuzz-'));
chmodSync(directory, 0o755);
const faults = [];
let service;

async function start(fastPath) {
  service = spawn(process.execPath, [MAIN], {
    cwd: tmpdir(), // where no .env is
    env: {
      ...{ PATH: process.env.PATH, PORT: '0', DATA_DIR: directory, LOG_LEVEL: 'info', FAST_PATH: fastPath },
      ...{ HEADERS_TIMEOUT_MS: '1000', STALL_TIMEOUT_MS: '1000', SHUTDOWN_DELAY_MS: '0' },
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let log = '';
  service.stdout.on('data', (text) => {
    log = (log + text).slice(-100_000);
  });
  while (!/listening on/.test(log)) {
    if (service.exitCode !== null) throw new Error(`The service did not start:\n${log}`);
    await delay(50);
  }
  return {
    url: /listening on (http:[^\s",]+)/.exec(log)[1],
    faultsOf: () => log.match(/.*"level":"error".*/g) ?? [],
  };
}

async function stop() {
  const closed = new Promise((resolve) => service.once('close', resolve));
  service.kill('SIGTERM');
  await closed;
  if (service.exitCode !== 0) faults.push(`the service ended with ${service.exitCode ?? service.signalCode}`);
}

async function raw(url) {
  const counts = new Map();
  const until = Date.now() + seconds * 1000;
  const source = inputs(seed);
  let slowest = 0;
  const agent = async () => {
    while (Date.now() < until && faults.length < 10) {
      const { kind, bytes } = source.next().value;
      const began = performance.now();
      const status = await Promise.race([send(url, bytes), delay(ANSWER_MS, 'none in time', { ref: false })]);
      slowest = Math.max(slowest, performance.now() - began);
      counts.set(kind, (counts.get(kind) ?? 0) + 1);
      if (!STATUSES.has(status)) {
        faults.push(
          `${kind}: answered ${status} to ${JSON.stringify(bytes.toString('latin1').slice(0, 1500))}`,
        );
      }
    }
  };
  await Promise.all(Array.from({ length: AGENTS }, agent));
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const kinds = [...counts].map(([kind, count]) => `${kind} ${count}`).join(', ');
  console.log(
    `fuzz: ${total} inputs of raw bytes (${kinds}), the slowest answer after ${Math.round(slowest)} ms`,
  );
}

function peakBytes() {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${service.pid}/status`, 'utf8'))[1]) * 1024;
  } catch {
    return null;
  }
}

/** Resolves once it ended; it reports by itself. */
async function byOpenApi(url) {
  const run = spawn(
    schemathesis,
    [
      ...['run', `${url}/openapi.json`, '--url', url, '--seed', String(seed), '--max-examples', examples],
      // Not those that want 405 for other methods, or whatever the schema allows accepted and all else refused: ids are
      // taken as numbers too, and what no schema can say, such as NUL, is refused.
      ...['--checks', CHECKS, '--request-timeout', '30', '--no-color'],
      ...['--phases', 'examples,coverage,fuzzing', '--generation-database', 'none', '--continue-on-failure'],
    ],
    {
      cwd: directory,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, NO_COLOR: '1', SCHEMATHESIS_HOOKS: HOOKS },
    },
  );
  let text = '';
  run.stdout.on('data', (part) => (text += part));
  const code = await new Promise((resolve) => run.once('close', resolve));
  const count = /(\d+) generated/.exec(text)?.[1] ?? 'an unknown number of';
  console.log(`fuzz: ${count} inputs by schemathesis`);
  if (code !== 0) faults.push(`schemathesis found this:\n${text}`);
}

console.log(`fuzz: FUZZ_SEED=${seed}`);
try {
  for (const fastPath of ['true', 'false']) {
    console.log(`fuzz: FAST_PATH=${fastPath}`);
    const { url, faultsOf } = await start(fastPath);
    await raw(url);
    if (schemathesis !== undefined) await byOpenApi(url);
    if ((await fetch(`${url}/health/ready`)).status !== 200) faults.push('the service is not ready any more');
    faults.push(...faultsOf());
    const peak = peakBytes();
    if (peak !== null) console.log(`fuzz: ${Math.round(peak / 1e6)} MB at most`);
    if (peak !== null && peak > MEMORY_BYTES) faults.push(`the service took ${peak} bytes of memory`);
    await stop();
  }
} finally {
  if (service?.exitCode === null && service.signalCode === null) {
    service.kill('SIGTERM');
    await delay(2000);
  }
  rmSync(directory, { recursive: true, force: true });
}
for (const fault of faults) console.error(fault);
console.log(faults.length === 0 ? 'fuzz: no fault' : `fuzz: ${faults.length} faults`);
process.exit(faults.length === 0 ? 0 : 1);
