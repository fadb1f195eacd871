import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { aPut } from './support/builders.js';
import { environment, hasPackages } from './support/npm.js';
import { aDataDir, cleanUp, Service } from './support/process.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

interface Instruction {
  name: string;
  text: string;
}

const instructions = readFileSync(join(ROOT, 'Dockerfile'), 'utf8')
  .replaceAll(/^#.*\n/gm, '')
  .replaceAll('\\\n', ' ')
  .split('\n')
  .filter(Boolean)
  .map((line): Instruction => {
    const [, name = '', text = ''] = /^(\S+)\s+(.*)$/.exec(line) ?? [];
    return { name, text };
  });

const [everything, ...allowed] = readFileSync(join(ROOT, '.dockerignore'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'));

/** Of the image's last stage. */
interface Image {
  directory: string;
  env: Record<string, string>;
  user: [uid: number, gid: number];
  command: string[];
  healthCheck: string[];
}

/** Does in directories below `place` what `docker build` does in images. An instruction that it does not know is an error. */
function build(place: string): Image {
  const stages = new Map<string, string>();
  const image: Image = { directory: '', env: {}, user: [0, 0], command: [], healthCheck: [] };
  for (const { name, text } of instructions) {
    const words = text.split(/\s+/);
    if (name === 'FROM') {
      expect(text).toMatch(/^node:24-slim( AS \w+)?$/);
      Object.assign(image, { directory: join(place, words[2] ?? 'image'), env: {} });
      if (words[2] !== undefined) stages.set(words[2], image.directory);
      mkdirSync(image.directory);
    } else if (name === 'COPY') copy(words, image.directory, stages);
    else if (name === 'RUN') run(text, image);
    else if (name === 'ENV')
      Object.assign(image.env, Object.fromEntries(words.map((word) => word.split('='))));
    else if (name === 'USER') image.user = text.split(':').map(Number) as [number, number];
    else if (name === 'CMD') image.command = JSON.parse(text) as string[];
    else if (name === 'HEALTHCHECK') image.healthCheck = JSON.parse(text.replace(/^.* CMD /, '')) as string[];
    else if (name === 'WORKDIR') expect(text).toBe('/app');
    else expect(['LABEL', 'EXPOSE']).toContain(name);
  }
  return image;
}

function copy(words: string[], directory: string, stages: Map<string, string>): void {
  const [, from] = /^--from=(\w+)$/.exec(words[0]!) ?? [];
  const sources = words.slice(from === undefined ? 0 : 1);
  const target = resolve(directory, sources.pop()!);
  for (const source of sources) {
    if (from === undefined) expect(allowed).toContain(`!${source}`);
    const path = from === undefined ? join(ROOT, source) : join(stages.get(from)!, relative('/app', source));
    // The contents of a directory are copied, and a file into one.
    const isFile = basename(target) !== basename(source);
    cpSync(path, isFile ? join(target, basename(source)) : target, { recursive: true });
  }
}

function run(text: string, { directory, env }: Image): void {
  if (text === 'npm ci') {
    // The packages that these tests run with come from the same lock.
    symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'));
    return;
  }
  // The cache is everybody's here. Without root, files have their owner already.
  const isRoot = process.getuid?.() === 0;
  const steps = text
    .split(' && ')
    .filter((step) => !step.startsWith('npm cache clean') && (isRoot || !step.startsWith('chown')));
  execFileSync('sh', ['-ec', steps.join(' && ')], {
    cwd: directory,
    env: { ...environment, ...env, npm_config_prefer_offline: 'true', npm_config_audit: 'false' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

afterAll(cleanUp);

it('.dockerignore lets in what the Dockerfile copies, and nothing else', () => {
  const copied = instructions
    .filter(({ name, text }) => name === 'COPY' && !text.startsWith('--from'))
    .flatMap(({ text }) => text.split(/\s+/).slice(0, -1));
  expect(everything).toBe('*');
  expect([...allowed].sort()).toEqual([...new Set(copied)].map((path) => `!${path}`).sort());
});

(hasPackages ? it : it.skip)(
  'what the Dockerfile builds serves as a plain user, in good health',
  async () => {
    const place = dirname(aDataDir({ name: 'image' }));
    chmodSync(place, 0o755);
    const { directory, env, user, command, healthCheck } = build(place);
    for (const path of ['node_modules/jest', 'node_modules/typescript', 'src', 'dist/test']) {
      expect([path, existsSync(join(directory, path))]).toEqual([path, false]);
    }
    const [uid, gid] = user;
    const identity = process.getuid?.() === 0 ? { uid, gid } : {};
    const settings = { ...env, EMBEDDED_POSTGRES: 'true', HOST: '0.0.0.0', AUTH_MODE: 'none' };
    const service = await Service.start(settings, { command, cwd: directory, ...identity }).ready();
    expect((await service.post('put', aPut())).status).toBe(200);
    const check = async () => {
      const [program, ...args] = healthCheck;
      const child = spawn(program!, args, {
        cwd: directory,
        env: { PATH: process.env.PATH, ...settings, PORT: new URL(service.url).port },
        stdio: 'ignore',
        ...identity,
      });
      const [code] = (await once(child, 'exit')) as [number];
      return code;
    };
    expect(await check()).toBe(0);
    expect(await service.stop()).toBe(0);
    expect(await check()).toBe(1);
  },
  300_000,
);
