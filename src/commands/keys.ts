import { userInfo } from 'node:os';
import { Command, InvalidArgumentError, Option } from 'commander';
import { settingsFromEnvironment } from '../config/env.js';
import { type Scope, SCOPES } from '../request/principal.js';
import { seconds, tenantName } from './arguments.js';
import { withDatabase } from './database.js';
import { FailureError, printJson, printTable } from './outcome.js';

interface NewKeyOptions {
  name: string;
  scopes: Scope[];
  tenant: string;
  /** In seconds. */
  expires?: number;
}

export function keysCommand(): Command {
  const command = new Command('keys')
    .description('Make, list, rotate and revoke the keys of agents.')
    .addHelpText(
      'after',
      '\nTimes are a number and s, m, h or d, such as 90d. A key is printed once, alone on its line.',
    );
  command
    .command('create')
    .description('Make a key.')
    .addOption(name())
    .addOption(scopes())
    .addOption(tenant().default('', 'the default tenant'))
    .addOption(expires())
    .action(create);
  command
    .command('list')
    .description('List keys, those that have ended too. The text of a key is not kept.')
    .addOption(tenant())
    .option('--json', 'as JSON')
    .action(list);
  command
    .command('rotate')
    .description('Make a key that takes the place of another one.')
    .argument('<id>', 'the id of the old key')
    .addOption(tenant())
    .option('--grace <time>', 'how long the old key works on at least', seconds, 86_400)
    .addOption(expires())
    .action(rotate);
  command
    .command('revoke')
    .description('End a key at once.')
    .argument('<id>', 'the id of the key')
    .addOption(tenant())
    .action(revoke);
  command
    .command('hash')
    .description('Make a key, and the entry for API_KEYS_FILE. Asks no database.')
    .addOption(name())
    .addOption(scopes())
    .addOption(tenant().default('', 'the default tenant'))
    .addOption(expires())
    .action(hash);
  return command;
}

const name = () =>
  new Option('--name <name>', 'who it is for').makeOptionMandatory().argParser((text) => {
    if (text === '') throw new InvalidArgumentError('It must not be empty.');
    return text;
  });

const scopes = () =>
  new Option('--scopes <list>', `what it may do: ${SCOPES.join(', ')}`)
    .makeOptionMandatory()
    .argParser((text) => {
      const given = text.split(',').map((scope) => scope.trim());
      const isScope = (scope: string): scope is Scope => (SCOPES as readonly string[]).includes(scope);
      if (!given.every(isScope)) throw new InvalidArgumentError(`Allowed are ${SCOPES.join(', ')}.`);
      return given;
    });

const tenant = () => new Option('--tenant <tenant>', 'whose threads it sees').argParser(tenantName);

const expires = () => new Option('--expires <time>', 'when it ends, from now').argParser(seconds);

async function create({ expires: inSeconds, ...identity }: NewKeyOptions): Promise<void> {
  const { CreateKeyUseCase } = await import('../auth/use-cases/create-key.use-case.js');
  await withKeys(async ({ app, record }) => {
    const made = await app
      .get(CreateKeyUseCase)
      .execute({ ...identity, expiresInSeconds: inSeconds ?? null });
    await record('create', made.record.tenant, { made: made.record.id });
    console.log(made.text);
  });
}

async function list({ tenant: name, json }: { tenant?: string; json?: true }): Promise<void> {
  const { ListKeysUseCase } = await import('../auth/use-cases/list-keys.use-case.js');
  await withKeys(async ({ app }) => {
    const keys = await app.get(ListKeysUseCase).execute(name ?? null);
    if (json) {
      const { KeyResponse } = await import('../auth/dto/keys.dto.js');
      printJson(keys.map((key) => KeyResponse.of(key)));
      return;
    }
    printTable(
      ['ID', 'TENANT', 'NAME', 'SCOPES', 'CREATED', 'ENDS'],
      keys.map(({ id, tenant: of, name: text, scopes: may, createdAt, expiresAt, revokedAt }) => [
        ...[id, of || '-', JSON.stringify(text), may.join(','), at(createdAt)],
        revokedAt ? `revoked ${at(revokedAt)}` : expiresAt ? `expires ${at(expiresAt)}` : '-',
      ]),
    );
  });
}

async function rotate(
  id: string,
  options: { tenant?: string; grace: number; expires?: number },
): Promise<void> {
  const { RotateKeyUseCase } = await import('../auth/use-cases/rotate-key.use-case.js');
  await withKeys(async ({ app, record }) => {
    const made = await app.get(RotateKeyUseCase).execute({
      id,
      tenant: options.tenant ?? null,
      graceSeconds: options.grace,
      expiresInSeconds: options.expires ?? null,
    });
    await record('rotate', made.record.tenant, { id, made: made.record.id });
    console.log(made.text);
  });
}

async function revoke(id: string, { tenant: name = null }: { tenant?: string | null }): Promise<void> {
  const { RevokeKeyUseCase } = await import('../auth/use-cases/revoke-key.use-case.js');
  await withKeys(async ({ app, record }) => {
    await app.get(RevokeKeyUseCase).execute(id, name);
    await record('revoke', name, { id });
  });
}

async function hash({ expires: inSeconds, ...identity }: NewKeyOptions): Promise<void> {
  const { newKeyText, partsOf } = await import('../auth/domain/api-key.js');
  const text = newKeyText();
  const { hash: digest, ...parts } = partsOf(text);
  const end = inSeconds === undefined ? null : new Date(Date.now() + 1000 * inSeconds).toISOString();
  console.log(text);
  console.log(JSON.stringify({ ...parts, ...identity, hash: digest.toString('hex'), expires: end }));
}

interface Keys {
  app: import('@nestjs/common').INestApplicationContext;
  /** Writes to the audit log what was done to keys of the tenant. */
  record: (what: string, tenant: string | null, detail: object) => Promise<void>;
}

/** @throws FailureError with what the use cases refuse in words for a command line */
async function withKeys(work: (keys: Keys) => Promise<void>): Promise<void> {
  const { NestFactory } = await import('@nestjs/core');
  const { Audit } = await import('../auth/audit.js');
  const { VERSION } = await import('../config/version.js');
  const { migrate } = await import('../database/migrate.js');
  const { InvalidRequestError } = await import('../errors/errors.js');
  const { Metrics } = await import('../observability/metrics/metrics.js');
  const { AppModule } = await import('../server/app.module.js');
  const settings = settingsFromEnvironment({ serves: false });
  if (settings.apiKeysFile !== null) {
    throw new FailureError('The keys are those of API_KEYS_FILE; `keys hash` makes an entry for it');
  }
  await withDatabase(settings, 'silent', async (url) => {
    if (settings.migrateOnStart) await migrate(settings, url);
    const app = await NestFactory.createApplicationContext(
      AppModule.for(settings, url, new Metrics(VERSION), null),
      { logger: false, abortOnError: false },
    );
    const record: Keys['record'] = (what, of, detail) =>
      app.get(Audit).record({
        ...{ operation: `keys-${what}`, outcome: 'done', requestId: null, tenant: of, detail },
        by: { subject: `the command line, as ${userInfo().username}` },
      });
    try {
      await work({ app, record });
    } catch (error) {
      throw error instanceof InvalidRequestError
        ? new FailureError(
            error.faults.map(({ pointer, detail }) => `${pointer.replace('#/', '')} ${detail}`).join('; '),
          )
        : error;
    } finally {
      await app.close();
    }
  });
}

function at(time: Date | null): string {
  return time?.toISOString() ?? '-';
}
