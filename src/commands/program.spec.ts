import { jest } from '@jest/globals';
import { run } from './program.js';

/** Runs the command in this process, with what it prints caught. Nothing here goes as far as to do anything. */
async function outcomeOf(args: string[]): Promise<{ code: number; out: string; err: string }> {
  const printed = { out: '', err: '' };
  const spies = [
    jest.spyOn(process.stdout, 'write').mockImplementation((text) => ((printed.out += String(text)), true)),
    jest.spyOn(process.stderr, 'write').mockImplementation((text) => ((printed.err += String(text)), true)),
    jest.spyOn(console, 'error').mockImplementation((text: unknown) => (printed.err += `${String(text)}\n`)),
  ];
  try {
    return { code: await run(args), ...printed };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

const COMMANDS = [
  [],
  ...['serve', 'migrate', 'keys', 'tenants', 'blobs', 'settings', 'openapi', 'healthcheck'].map((name) => [
    name,
  ]),
  ...['run', 'revert', 'status', 'grants'].map((name) => ['migrate', name]),
  ...['create', 'list', 'rotate', 'revoke', 'hash'].map((name) => ['keys', name]),
  ...['list', 'move'].map((name) => ['tenants', name]),
  ...['status', 'compact', 'expand', 'verify'].map((name) => ['blobs', name]),
];

it.each(COMMANDS.map((command) => ({ command })))('$command has --help', async ({ command }) => {
  const { code, out, err } = await outcomeOf([...command, '--help']);
  expect([code, err]).toEqual([0, '']);
  expect(out).toContain(`Usage: ${['checkpoint-backend', ...command].join(' ')}`);
});

it('lists in its help the commands that there are', async () => {
  const { out } = await outcomeOf(['--help']);
  const listed = [...out.matchAll(/^ {2}([a-z]+)(?: |$)/gm)].map(([, name]) => name);
  expect(listed.sort()).toEqual([...COMMANDS.filter(({ length }) => length === 1).flat(), 'help'].sort());
});

it.each([
  { args: ['nonsense'], names: /nonsense/ },
  { args: ['serve', '--nonsense'], names: /--nonsense/ },
  { args: ['migrate', 'nonsense'], names: /nonsense/ },
  { args: ['migrate', 'grants'], names: /role/ },
  { args: ['migrate', 'run', '--grant-to'], names: /--grant-to/ },
  { args: ['keys'], names: /Usage: checkpoint-backend keys/ },
  { args: ['keys', 'create', '--scopes', 'read'], names: /--name/ },
  { args: ['keys', 'create', '--name', 'n', '--scopes', 'all'], names: /all.*read, write, delete, admin/s },
  {
    args: ['keys', 'create', '--name', 'n', '--scopes', 'read', '--expires', '5x'],
    names: /--expires.*5x.*90d/s,
  },
  { args: ['keys', 'create', '--name', 'n', '--scopes', 'read', '--tenant', 'A'], names: /--tenant.*a-z/s },
  { args: ['keys', 'revoke'], names: /id/ },
  { args: ['keys', 'revoke', 'a', 'b'], names: /too many arguments/ },
  { args: ['tenants', 'list', '--all'], names: /--all/ },
  { args: ['tenants', 'move', '--all'], names: /--tenant/ },
  { args: ['tenants', 'move', '--tenant', '\u0001', '--all'], names: /--tenant.*a-z/s },
  { args: ['tenants', 'move', '--tenant', 't'], names: /--thread, --threads-like and --all/ },
  { args: ['tenants', 'move', '--tenant', 't', '--all', '--thread', 'x'], names: /one of/ },
  { args: ['tenants', 'move', '--tenant', 't', '--from', 't', '--all'], names: /same tenant/ },
  { args: ['settings', '--format', 'toml'], names: /--format.*toml.*env, markdown/s },
  { args: ['settings', '--format', 'env', '--json'], names: /--format.*--json/ },
  { args: ['openapi', '--check', 'a', '--output', 'b'], names: /--check.*--output|--output.*--check/s },
])('$args is wrong usage, which it names', async ({ args, names }) => {
  const { code, out, err } = await outcomeOf(args);
  expect([code, out]).toEqual([2, '']);
  expect(err).toMatch(names);
});
