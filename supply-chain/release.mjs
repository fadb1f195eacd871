// release.mjs TAG prints the changelog's section for the tag. Ends with 1 when there is none, or when one of the things that are
// released has another version.
import { readFileSync } from 'node:fs';

const [tag = ''] = process.argv.slice(2);
const version = /^v(\d+\.\d+\.\d+\S*)$/.exec(tag)?.[1];
if (version === undefined) fail([`usage: release.mjs TAG, such as v1.2.3; not ${tag || 'nothing'}`]);

const textOf = (path) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');

/** Each with the line that has its version. */
const VERSIONS = {
  'package.json': /^ {2}"version": "(.*)",$/m,
  'clients/typescript/package.json': /^ {2}"version": "(.*)",$/m,
  'clients/python/pyproject.toml': /^version = "(.*)"$/m,
  'deploy/helm/checkpoint-backend/Chart.yaml': /^version: (.*)$/m,
};

const faults = Object.entries(VERSIONS)
  .map(([path, line]) => [path, line.exec(textOf(path))?.[1]])
  .filter(([, found]) => found !== version)
  .map(([path, found]) => `${path}: the version is ${found}, and the tag is ${tag}`);

const sections = textOf('CHANGELOG.md').split(/^## /m);
const section = sections.find((text) => text.startsWith(`[${version}]`));
if (section === undefined) faults.push(`CHANGELOG.md: there is no section [${version}]`);
if (faults.length > 0) fail(faults);
console.log(section.slice(section.indexOf('\n')).trim());

function fail(lines) {
  console.error(lines.join('\n'));
  process.exit(1);
}
