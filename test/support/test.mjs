// npm test: Jest and, beside it, the suites of the Python client, whose output is held back until Jest has ended.
// With arguments, which go to Jest, it runs alone.
import { spawn } from 'node:child_process';

/** What clients/python/run-tests exits with when it finds no Python 3.10 or newer with venv. */
const NO_PYTHON = 77;

const jestArguments = process.argv.slice(2);
const jest = spawn(
  process.execPath,
  ['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js', ...jestArguments],
  { stdio: 'inherit' },
);
if (jestArguments.length > 0) process.exit(await statusOf(jest));

const python = process.platform === 'win32' ? undefined : spawn('clients/python/run-tests');
const output = [];
python?.stdout.on('data', (chunk) => output.push(chunk));
python?.stderr.on('data', (chunk) => output.push(chunk));
const [jestStatus, pythonStatus] = await Promise.all([statusOf(jest), python ? statusOf(python) : NO_PYTHON]);

console.log(`\n${Buffer.concat(output).toString()}`);
if (pythonStatus === NO_PYTHON) {
  console.log('The suites of clients/python were NOT run: they need Python 3.10 or newer with venv.');
}
process.exit(jestStatus || (pythonStatus === NO_PYTHON ? 0 : pythonStatus));

function statusOf(child) {
  return new Promise((resolve) => child.on('close', (status) => resolve(status ?? 1)));
}
