// Ends with 1 when a package asks for a narrower range of Node versions than `engines` of package.json: npm would warn about it.
import { readFileSync } from 'node:fs';
import semver from 'semver';

const { packages } = JSON.parse(readFileSync(new URL('../package-lock.json', import.meta.url), 'utf8'));
const ours = packages[''].engines.node;

const narrower = Object.entries(packages).filter(
  ([, { engines }]) => engines?.node !== undefined && !semver.subset(ours, engines.node),
);
for (const [path, { version, engines }] of narrower) {
  console.error(`${path} ${version}: asks for Node ${engines.node}, and the service allows ${ours}`);
}
if (narrower.length > 0) process.exit(1);
console.log(`${Object.keys(packages).length} packages allow Node ${ours}`);
