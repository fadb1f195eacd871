import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { Settings } from '../src/config/env.js';
import { Authority } from './support/certificates.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, Service } from './support/process.js';

const fileOf = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const dockerfile = readFileSync(fileOf('Dockerfile'), 'utf8');
/** Without its `node`. */
const [, main, ...command] = JSON.parse(
  /^HEALTHCHECK .*CMD (\[.*\])$/m.exec(dockerfile)?.[1] ?? '[]',
) as string[];

describe('the health check of the image', () => {
  const files = mkdtempSync(join(tmpdir(), 'checkpoint-backend-image-'));
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    const { cert, key } = new Authority().issue('DNS:checkpoints.example');
    writeFileSync(join(files, 'tls.crt'), cert);
    writeFileSync(join(files, 'tls.key'), key);
  });
  afterAll(async () => {
    await cleanUp();
    await database.drop();
    rmSync(files, { recursive: true });
  });

  const TLS = { TLS_CERT: join(files, 'tls.crt'), TLS_KEY: join(files, 'tls.key') };
  const check = async (environment: Record<string, string>): Promise<number> => {
    const env = { PATH: process.env.PATH, AUTH_MODE: 'none', DATABASE_URL: database.url, ...environment };
    const child = spawn(process.execPath, [fileOf(main!), ...command], {
      cwd: tmpdir(),
      env,
      stdio: 'ignore',
    });
    const [code] = (await once(child, 'exit')) as [number];
    return code;
  };

  it.each<{ what: string; environment: Record<string, string> }>([
    { what: 'plain HTTP', environment: {} },
    { what: 'TLS, by a name that is not localhost', environment: TLS },
    { what: 'every address', environment: { HOST: '0.0.0.0' } },
    { what: 'one address of several', environment: { HOST: '127.0.0.2' } },
    { what: 'one address of several, with TLS', environment: { HOST: '127.0.0.2', ...TLS } },
    { what: 'a name', environment: { HOST: 'localhost' } },
  ])('is content with a service on $what', async ({ environment }) => {
    const service = Service.start({ DATABASE_URL: database.url, ...environment });
    const port = await listeningPort(service);
    expect(await check({ ...environment, PORT: port })).toBe(0);
    await service.stop();
    expect(await check({ ...environment, PORT: port })).toBe(1);
  });

  async function listeningPort(service: Service): Promise<string> {
    for (;;) {
      const [, port] = /listening on https?:\/\/\S+:(\d+)/.exec(service.log) ?? [];
      if (port !== undefined) return port;
      if (service.hasExited) throw new Error(service.log);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  it('is not content with what is not the service', async () => {
    expect(await check({ PORT: '1' })).toBe(1);
    expect(await check({ PORT: 'x' })).toBe(1);
  });
});

it('the image runs as a number that is not 0, with its licence and its labels', () => {
  expect(dockerfile).toMatch(/^USER [1-9]\d*:[1-9]\d*$/m);
  expect(dockerfile).toMatch(/^COPY LICENSE/m);
  expect(readFileSync(fileOf('.dockerignore'), 'utf8')).toMatch(/^!LICENSE$/m);
  const { license } = JSON.parse(readFileSync(fileOf('package.json'), 'utf8')) as { license: string };
  expect(dockerfile).toContain(`org.opencontainers.image.licenses="${license}"`);
});

it('Compose waits longer for the service to stop than a request may take', () => {
  const { services } = parse(readFileSync(fileOf('docker-compose.yml'), 'utf8')) as {
    services: Record<string, { environment: Record<string, string>; stop_grace_period: string }>;
  };
  const { environment, stop_grace_period: grace } = services['checkpoint-backend']!;
  const settings = new Settings(environment);
  const { shutdownDelayMs, bodyTimeoutMs, queueWaitMs, outageWaitMs, statementTimeoutMs, stallTimeoutMs } =
    settings;
  const longestMs =
    shutdownDelayMs + bodyTimeoutMs + 2 * queueWaitMs + outageWaitMs + statementTimeoutMs + stallTimeoutMs;
  expect(Number.parseInt(grace, 10) * 1000).toBeGreaterThan(longestMs);
});
