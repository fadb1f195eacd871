// npm test: Jest, and beside it the suites of the Python client, since both wait for most of their time. With arguments,
// which go to Jest, Jest runs alone.
import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** What clients/python/run-tests exits with when it finds no Python 3.10 or newer with venv. */
const NO_PYTHON = 77;

/** @returns the exit code */
async function run(command, args) {
  const [code] = await once(spawn(command, args, { stdio: 'inherit' }), 'exit');
  return code ?? 1;
}

/** The same with the output kept until `print` is called. */
async function runAside(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => output.push(bytes));
  const [code] = await once(child, 'close');
  return { code: code ?? 1, print: () => process.stdout.write(Buffer.concat(output)) };
}

const jestArguments = process.argv.slice(2);
const isAll = jestArguments.length === 0;
const python =
  isAll && process.platform !== 'win32' ? runAside('clients/python/run-tests', []) : { code: NO_PYTHON };
let status = await run(process.execPath, [
  ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
  ...jestArguments,
]);
if (isAll) {
  const { code, print } = await python;
  print?.();
  if (code === NO_PYTHON) {
    console.log('The suites of clients/python were NOT run: they need Python 3.10 or newer with venv.');
  } else status ||= code;
}
process.exit(status);
