import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { transformFile } from '@swc/core';

const SOURCE = fileURLToPath(new URL('../../clients/typescript/src/', import.meta.url));
/** Inside of the repository, so that imports of packages are found. */
const DIRECTORY = fileURLToPath(new URL('../clients/typescript/dist/', import.meta.url));

/**
 * The TypeScript client as ECMAScript modules, for programs that run outside of Jest. In a directory of its own, since another
 * suite builds the package meanwhile.
 */
export async function compiledClient() {
  mkdirSync(DIRECTORY, { recursive: true });
  const directory = mkdtempSync(join(DIRECTORY, 'client-'));
  for (const file of readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.ts')) continue;
    const { code } = await transformFile(join(SOURCE, file), {
      jsc: { target: 'es2022', parser: { syntax: 'typescript' } },
      module: { type: 'es6' },
    });
    const target = join(directory, file.replace(/ts$/, 'js'));
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, code);
  }
  return {
    directory,
    url: pathToFileURL(join(directory, 'index.js')).href,
    remove: () => {
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
