// Packs the package, installs it in an empty directory, and has it store and read a checkpoint from ECMAScript modules,
// from CommonJS and, with types, from TypeScript. Needs a service: CHECKPOINT_URL, default http://127.0.0.1:5003.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const typescript = JSON.parse(readFileSync(join(root, '../../package.json'), 'utf8')).devDependencies
  .typescript;
const directory = mkdtempSync(join(tmpdir(), 'langgraph-checkpoint-http-'));
const url = process.env.CHECKPOINT_URL ?? 'http://127.0.0.1:5003';

function run(command, args, cwd = directory) {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, CHECKPOINT_URL: url },
  });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`);
  return stdout.trim();
}

const BODY = `
  const saver = createCheckpointer();
  const thread = { configurable: { thread_id: 'try-' + Math.random() } };
  const stored = await saver.put(
    thread,
    { ...emptyCheckpoint(), channel_values: { a: [1] }, channel_versions: { a: 1 } },
    { source: 'input', step: -1, parents: {} },
    { a: 1 },
  );
  await saver.putWrites(stored, [['a', [2]]], 'task');
  const tuple = await saver.getTuple(thread);
  await saver.deleteThread(thread.configurable.thread_id);
  if (JSON.stringify(tuple?.checkpoint.channel_values) !== '{"a":[1]}') throw new Error('not the same');
  if (!(saver instanceof HttpCheckpointSaver && saver instanceof BaseCheckpointSaver)) throw new Error('not a saver');
  console.log('works');
`;
const OURS = '{ createCheckpointer, HttpCheckpointSaver }';
const THEIRS = '{ BaseCheckpointSaver, emptyCheckpoint }';
const imports = `import ${OURS} from 'langgraph-checkpoint-http';
import ${THEIRS} from '@langchain/langgraph-checkpoint';
`;
const FILES = {
  'package.json': '{ "private": true }',
  'esm.mjs': imports + BODY,
  'commonjs.cjs': `const ${OURS} = require('langgraph-checkpoint-http');
const ${THEIRS} = require('@langchain/langgraph-checkpoint');
(async () => {${BODY}})();
`,
  'types.mts': imports + BODY,
  'types.cts': `${imports}void (async () => {${BODY}})();\n`,
};

try {
  const [{ filename, files }] = JSON.parse(
    run('npm', ['pack', '--json', '--pack-destination', directory], root).replace(/^[^[]*/, ''),
  );
  console.log(`${filename}: ${files.length} files`);
  for (const [name, text] of Object.entries(FILES)) writeFileSync(join(directory, name), text);
  run('npm', [
    'install',
    '--no-audit',
    '--no-fund',
    join(directory, filename),
    `typescript@${typescript}`,
    '@types/node@20',
  ]);
  console.log('ESM', run(process.execPath, ['esm.mjs']));
  console.log('CommonJS', run(process.execPath, ['commonjs.cjs']));
  run(process.execPath, [
    'node_modules/typescript/bin/tsc',
    ...[
      '--noEmit',
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--types',
      'node',
      'types.mts',
      'types.cts',
    ],
  ]);
  console.log('types fit, from both');
} finally {
  rmSync(directory, { recursive: true, force: true });
}
