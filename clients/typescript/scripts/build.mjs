// Compiles the package twice: ECMAScript modules into dist/esm, CommonJS into dist/cjs.
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

function compile(...options) {
  const { status } = spawnSync(process.execPath, [tsc, ...options], { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

rmSync(`${root}/dist`, { recursive: true, force: true });
compile();
compile('--module', 'commonjs', '--moduleResolution', 'bundler', '--outDir', 'dist/cjs');
// What is below speaks another module system than the package.
writeFileSync(`${root}/dist/cjs/package.json`, '{ "type": "commonjs" }\n');
