import 'reflect-metadata';
import { userInfo } from 'node:os';
import { parseArgs } from 'node:util';
import type { INestApplicationContext } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { Audit } from './auth/audit.js';
import { newKeyText, partsOf } from './auth/api-key.js';
import { CreateKeyUseCase } from './auth/use-cases/create-key.use-case.js';
import { ListKeysUseCase } from './auth/use-cases/list-keys.use-case.js';
import { RevokeKeyUseCase } from './auth/use-cases/revoke-key.use-case.js';
import { RotateKeyUseCase } from './auth/use-cases/rotate-key.use-case.js';
import { InvalidRequestError } from './checkpoints/checkpoint.errors.js';
import { type Settings, settingsFromEnvironment } from './config/env.js';
import { VERSION } from './config/version.js';
import { leaseDatabase } from './database/database-lease.js';
import { migrate } from './database/migrate.js';
import { createLogger } from './http/logging.js';
import { isTenant, type Scope, SCOPES } from './http/principal.js';
import { Metrics } from './metrics/metrics.js';

const USAGE = `usage: npm run keys -- create --name NAME --scopes read,write [--tenant TENANT] [--expires 90d]
       npm run keys -- list [--tenant TENANT]
       npm run keys -- revoke ID
       npm run keys -- rotate ID [--grace 1d] [--expires 90d]
       npm run keys -- hash --name NAME --scopes read,write [--tenant TENANT] [--expires 90d]
A key is printed once, alone on its line. \`hash\` asks no database: it prints a key, and its line for API_KEYS_FILE.
Scopes are ${SCOPES.join(', ')}; times are of s, m, h or d.`;

const SECONDS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

const OPTIONS = {
  name: { type: 'string' },
  scopes: { type: 'string' },
  tenant: { type: 'string' },
  expires: { type: 'string' },
  grace: { type: 'string', default: '1d' },
} as const;

type Values = ReturnType<typeof parse>['values'];

function parse() {
  return parseArgs({ options: OPTIONS, allowPositionals: true });
}

async function run(settings: Settings): Promise<void> {
  const { values, positionals } = parse();
  const [command, id = '', ...more] = positionals;
  if (more.length > 0 || (id === '') === (command === 'revoke' || command === 'rotate'))
    throw new Error(USAGE);
  const expiresInSeconds = values.expires === undefined ? null : secondsOf(values.expires);
  if (command === 'hash') {
    const { tenant, name, scopes } = identityOf(values);
    const text = newKeyText();
    const { hash, ...parts } = partsOf(text);
    const expires =
      expiresInSeconds === null ? null : new Date(Date.now() + 1000 * expiresInSeconds).toISOString();
    console.log(text);
    console.log(JSON.stringify({ ...parts, tenant, name, scopes, hash: hash.toString('hex'), expires }));
    return;
  }
  if (settings.apiKeysFile !== null) throw new Error('The keys are those of API_KEYS_FILE; see `hash`');
  const logger = createLogger('silent');
  const database = await leaseDatabase(settings, logger);
  try {
    if (settings.migrateOnStart) await migrate(settings, database.url);
    const app = await NestFactory.createApplicationContext(
      AppModule.for(settings, database.url, new Metrics(VERSION), null),
      { logger: false, abortOnError: false },
    );
    try {
      await carryOut(app, command, id, values, expiresInSeconds);
    } finally {
      await app.close();
    }
  } finally {
    await database.release();
  }
}

async function carryOut(
  app: INestApplicationContext,
  command: string | undefined,
  id: string,
  values: Values,
  expiresInSeconds: number | null,
): Promise<void> {
  const record = (tenant: string | null, detail: object) =>
    app.get(Audit).record({
      ...{ operation: `keys-${command}`, outcome: 'done', requestId: null, tenant, detail },
      by: { subject: `the command line, as ${userInfo().username}` },
    });
  switch (command) {
    case 'create': {
      const made = await app.get(CreateKeyUseCase).execute({ ...identityOf(values), expiresInSeconds });
      await record(made.record.tenant, { made: made.record.id });
      console.log(made.text);
      return;
    }
    case 'list':
      for (const key of await app.get(ListKeysUseCase).execute(values.tenant ?? null)) {
        const end = key.revokedAt
          ? `revoked ${at(key.revokedAt)}`
          : key.expiresAt && `expires ${at(key.expiresAt)}`;
        console.log(
          [key.id, key.tenant, JSON.stringify(key.name), key.scopes.join(','), at(key.createdAt), end].join(
            '\t',
          ),
        );
      }
      return;
    case 'revoke':
      await app.get(RevokeKeyUseCase).execute(id, values.tenant ?? null);
      await record(values.tenant ?? null, { id });
      return;
    case 'rotate': {
      const input = {
        id,
        tenant: values.tenant ?? null,
        graceSeconds: secondsOf(values.grace),
        expiresInSeconds,
      };
      const made = await app.get(RotateKeyUseCase).execute(input);
      await record(made.record.tenant, { id, made: made.record.id });
      console.log(made.text);
      return;
    }
    default:
      throw new Error(USAGE);
  }
}

function identityOf({ name = '', scopes = '', tenant = '' }: Values) {
  const given = scopes.split(',');
  const isScope = (scope: string): scope is Scope => (SCOPES as readonly string[]).includes(scope);
  if (name === '' || !given.every(isScope)) throw new Error(USAGE);
  if (!isTenant(tenant)) throw new Error(`${tenant} is no name of a tenant`);
  return { tenant, name, scopes: given };
}

function secondsOf(text: string): number {
  const [, count, unit = ''] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const seconds = SECONDS[unit];
  if (seconds === undefined) throw new Error(USAGE);
  return Number(count) * seconds;
}

function at(time: Date | null): string {
  return time?.toISOString() ?? '';
}

try {
  await run(settingsFromEnvironment({ serves: false }));
} catch (error) {
  console.error(
    error instanceof InvalidRequestError
      ? error.faults[0]?.detail
      : error instanceof Error
        ? error.message
        : error,
  );
  process.exitCode = 1;
}
