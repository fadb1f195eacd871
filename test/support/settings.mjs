// Writes the files that are made from the declaration of the settings. With --check: fails when one differs from it.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import * as prettier from 'prettier';

const MAIN = 'dist/src/main.js';
const FILES = { '.env.example': 'env', 'docs/reference/settings.md': 'markdown' };

const options = await prettier.resolveConfig('package.json');
const differing = [];
for (const [file, format] of Object.entries(FILES)) {
  const printed = execFileSync(process.execPath, [MAIN, 'settings', '--format', format], {
    encoding: 'utf8',
  });
  const text = format === 'env' ? printed : await prettier.format(printed, { ...options, parser: format });
  if (!process.argv.includes('--check')) writeFileSync(file, text);
  else if (readFileSync(file, 'utf8') !== text) differing.push(file);
}
if (differing.length > 0) {
  console.error(
    `Out of date with src/config/declarations.ts: ${differing.join(', ')}. Run: npm run settings`,
  );
  process.exit(1);
}
