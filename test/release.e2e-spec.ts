import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const WORKFLOWS = join(ROOT, '.github/workflows');
const VERSIONED = [
  'package.json',
  'clients/typescript/package.json',
  'clients/python/pyproject.toml',
  'deploy/helm/checkpoint-backend/Chart.yaml',
];
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };

describe('the notes of a release', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-release-'));
    for (const path of [...VERSIONED, 'supply-chain/release.mjs'])
      cpSync(join(ROOT, path), join(directory, path));
    writeFileSync(
      join(directory, 'CHANGELOG.md'),
      `# Changelog\n\n## [Unreleased]\n\n- later\n\n## [${version}] - 2026-11-27\n\n### Added\n\n- now\n\n## [0.0.1]\n\n- before\n`,
    );
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  const release = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [join(directory, 'supply-chain/release.mjs'), ...args],
      { encoding: 'utf8' },
    );
    return { status, stdout, stderr };
  };

  it("are the changelog's section of the version", () => {
    expect(release(`v${version}`)).toEqual({ status: 0, stdout: '### Added\n\n- now\n', stderr: '' });
  });

  it('are refused without a section of the version', () => {
    writeFileSync(join(directory, 'CHANGELOG.md'), '# Changelog\n\n## [Unreleased]\n\n- later\n');
    expect(release(`v${version}`)).toMatchObject({
      status: 1,
      stderr: `CHANGELOG.md: there is no section [${version}]\n`,
    });
  });

  it.each(VERSIONED)('are refused when %s has another version', (path) => {
    const file = join(directory, path);
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll(version, '9.9.9'));
    const { status, stderr } = release(`v${version}`);
    expect([status, stderr]).toEqual([1, `${path}: the version is 9.9.9, and the tag is v${version}\n`]);
  });

  it.each(['', '1.2.3', 'v1'])('are refused for the tag "%s"', (tag) => {
    expect(release(tag).status).toBe(1);
  });
});

interface Step {
  uses?: string;
  run?: string;
}
interface Workflow {
  permissions: Record<string, string>;
  jobs: Record<
    string,
    { permissions?: Record<string, string>; needs?: string | string[]; uses?: string; steps?: Step[] }
  >;
}

describe('the workflows', () => {
  const workflows = Object.fromEntries(
    readdirSync(WORKFLOWS).map((file) => [
      file,
      parse(readFileSync(join(WORKFLOWS, file), 'utf8')) as Workflow,
    ]),
  );
  const { jobs, permissions } = workflows['release.yml']!;

  it('may do no more than each job of the release says', () => {
    expect(permissions).toEqual({});
    expect(Object.fromEntries(Object.entries(jobs).map(([name, job]) => [name, job.permissions]))).toEqual({
      versions: { contents: 'read' },
      tests: { contents: 'read' },
      npm: { contents: 'read', 'id-token': 'write' },
      pypi: { contents: 'read', 'id-token': 'write' },
      image: { contents: 'read', 'id-token': 'write', packages: 'write' },
      github: { contents: 'write' },
    });
  });

  it('publish nothing before the tests have passed', () => {
    const before = (name: string): string[] =>
      [jobs[name]!.needs ?? []].flat().flatMap((needed) => [needed, ...before(needed)]);
    expect(jobs.tests!.uses).toBe('./.github/workflows/ci.yml');
    for (const name of ['npm', 'pypi', 'image', 'github']) {
      expect([name, before(name)]).toEqual([name, expect.arrayContaining(['tests', 'versions'])]);
    }
  });

  it('run scripts of package.json, and actions of a version', () => {
    const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      scripts: Record<string, string>;
    };
    const steps = Object.values(workflows).flatMap((workflow) =>
      Object.values(workflow.jobs).flatMap(({ steps: all = [] }) => all),
    );
    expect(steps.length).toBeGreaterThan(20);
    const used = steps.flatMap(({ uses = [] }) => uses);
    expect(used.filter((name) => !/^[\w-]+\/[\w-]+@(v\d+|release\/v\d+)$/.test(name))).toEqual([]);
    const run = steps.flatMap(({ run: text = '' }) =>
      [...text.matchAll(/npm run ([\w:]+)/g)].map(([, name]) => name!),
    );
    expect(run.filter((name) => !(name in scripts))).toEqual([]);
  });

  const ACTIONLINT = process.env.ACTIONLINT ?? 'actionlint';
  const hasActionlint = spawnSync(ACTIONLINT, ['-version']).error === undefined;
  (hasActionlint ? it : it.skip)('pass actionlint', () => {
    const files = Object.keys(workflows).map((file) => join(WORKFLOWS, file));
    const { status, stdout, stderr } = spawnSync(ACTIONLINT, files, { cwd: ROOT, encoding: 'utf8' });
    expect([stdout, stderr, status]).toEqual(['', '', 0]);
  });
});
