// Ends with 1 when a package has a licence that nobody has agreed to.
import { PACKAGES } from './packages.mjs';

/** They ask for no more than a notice. Of a package that offers several, all have to be here. */
const ALLOWED = new Set(
  'MIT ISC BSD-2-Clause BSD-3-Clause Apache-2.0 0BSD BlueOak-1.0.0 CC0-1.0 Unlicense Python-2.0'.split(' '),
);

/** Used for developing alone, and never passed on. */
const DEVELOPMENT = {
  'MPL-2.0': 'lightningcss, which is used as it comes',
  'CC-BY-4.0': 'caniuse-lite, which is data',
};

const refused = [...PACKAGES].filter(([, { licence = 'none', ships }]) =>
  licence
    .match(/[\w.+-]+/g)
    .some((word) => !['AND', 'OR'].includes(word) && !ALLOWED.has(word) && (ships || !(word in DEVELOPMENT))),
);
for (const [id, { licence, ships }] of refused) {
  console.error(`${id}${ships ? '' : ' (development)'}: ${licence ?? 'no licence'} is not allowed`);
}
if (refused.length > 0) process.exit(1);
console.log(`The licences of ${PACKAGES.size} packages are allowed`);
