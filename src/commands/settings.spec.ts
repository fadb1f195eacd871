import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseEnv } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { DECLARATIONS } from '../config/declarations.js';
import { SETTING_NAMES, Settings } from '../config/env.js';
import { misspeltAmong } from '../config/misspelt.js';
import { helpOfSettings, settingsAsEnv, settingsAsMarkdown } from './settings-listing.js';

const pathOf = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const textOf = (path: string) => readFileSync(pathOf(path), 'utf8');

describe('.env.example', () => {
  it('is as the declaration says', () => {
    expect(textOf('.env.example')).toBe(settingsAsEnv());
  });

  it('changes nothing when all of it is uncommented', () => {
    const uncommented = parseEnv(settingsAsEnv().replaceAll(/^#(?=[A-Z])/gm, ''));
    expect(Object.keys(uncommented).sort()).toEqual([...SETTING_NAMES].sort());
    expect(new Settings(uncommented)).toEqual(new Settings({}));
    expect(new Settings(uncommented).masked()).toEqual(new Settings({}).masked());
  });
});

describe('docs/reference/settings.md', () => {
  it('is as the declaration says', async () => {
    const options = await resolveConfig(pathOf('package.json'));
    const text = await format(settingsAsMarkdown(), { ...options, parser: 'markdown' });
    expect(textOf('docs/reference/settings.md')).toBe(text);
  });

  it('has a row for each setting', () => {
    const named = [...settingsAsMarkdown().matchAll(/^\| `([A-Z_]+)` \|.*\|.*\|.*\|$/gm)];
    expect(named.map(([, name]) => name)).toEqual(SETTING_NAMES);
  });
});

describe('the help of serve', () => {
  it('has a line of at most 100 columns for each setting', () => {
    const lines = helpOfSettings().split('\n');
    const named = lines.flatMap((line) => /^ {2}([A-Z_]+) /.exec(line)?.[1] ?? []);
    expect(named).toEqual(SETTING_NAMES);
    expect(lines.filter(({ length }) => length > 100)).toEqual([]);
  });
});

describe('what deploys the service', () => {
  const files = readdirSync(pathOf('deploy'), { recursive: true, encoding: 'utf8' });
  const texts = files
    .filter((file) => /\.(ya?ml|tpl|txt)$/.test(file))
    .map((file) => textOf(`deploy/${file}`))
    .concat(textOf('docker-compose.yml'), textOf('Dockerfile'))
    .join('\n');

  it('misspells no setting', () => {
    const names = [...new Set(texts.match(/\b[A-Z]+(_[A-Z]+)*\b/g))];
    expect(names).toEqual(expect.arrayContaining(['DATABASE_URL', 'AUTH_MODE', 'EMBEDDED_POSTGRES']));
    expect(misspeltAmong(names, SETTING_NAMES)).toEqual([]);
  });

  it('repeats no default but the one that the declaration has', () => {
    const repeated = [...texts.matchAll(/default "(.*?)" \$s\.([A-Z_]+)/g)];
    expect(repeated).not.toEqual([]);
    const declared = new Map(DECLARATIONS.map(({ name, default: text }) => [name, text]));
    for (const [, text, name] of repeated) expect([name, text]).toEqual([name, declared.get(name!)]);
  });
});
