// npm test: Jest, then the suites of the Python client. With arguments, which go to Jest, it runs alone.
import { spawnSync } from 'node:child_process';

/** What clients/python/run-tests exits with when it finds no Python 3.10 or newer with venv. */
const NO_PYTHON = 77;

const run = (command, args) => spawnSync(command, args, { stdio: 'inherit' }).status ?? 1;

const jestArguments = process.argv.slice(2);
let status = run(process.execPath, [
  ...['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js'],
  ...jestArguments,
]);
if (jestArguments.length === 0) {
  const python = process.platform === 'win32' ? NO_PYTHON : run('clients/python/run-tests', []);
  if (python === NO_PYTHON) {
    console.log('The suites of clients/python were NOT run: they need Python 3.10 or newer with venv.');
  } else status ||= python;
}
process.exit(status);
