import { Command, CommanderError } from 'commander';
import { VERSION } from '../config/version.js';
import { blobsCommand } from './blobs.js';
import { healthcheckCommand } from './healthcheck.js';
import { keysCommand } from './keys.js';
import { migrateCommand } from './migrate.js';
import { openapiCommand } from './openapi.js';
import { UsageError } from './outcome.js';
import { serveCommand } from './serve.js';
import { settingsCommand } from './settings.js';
import { tenantsCommand } from './tenants.js';

const FAILURE = 1;
const USAGE = 2;

/**
 * The command line. Each command imports what it runs when it runs it, so that `--help` and `healthcheck` do not load the
 * service.
 */
export function programOf(): Command {
  const program = new Command('checkpoint-backend')
    .description('The memory of LangGraph agents: a service that keeps their checkpoints in Postgres.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help for the command')
    .helpCommand('help [command]', 'print help for the command')
    .addHelpText('after', '\nSettings are environment variables; `serve --help` and `settings` list them.');
  program.addCommand(serveCommand());
  for (const command of [
    migrateCommand(),
    keysCommand(),
    tenantsCommand(),
    blobsCommand(),
    settingsCommand(),
    openapiCommand(),
    healthcheckCommand(),
  ]) {
    program.addCommand(command);
  }
  throwInsteadOfExit(program);
  return program;
}

function throwInsteadOfExit(command: Command): void {
  command.exitOverride().showHelpAfterError('(add --help for what is allowed)');
  for (const child of command.commands) throwInsteadOfExit(child);
}

/**
 * `serve` is the default, and of `migrate` it is `run`. Commander would take a misspelt command for an argument of its own
 * default.
 */
function withDefaults(args: string[]): string[] {
  const [command, next = '--'] = args;
  if (command === undefined) return ['serve'];
  const isHelp = next === '-h' || next === '--help';
  return command === 'migrate' && next.startsWith('-') && !isHelp
    ? ['migrate', 'run', ...args.slice(1)]
    : args;
}

/** Runs a command. Returns the exit code: 0, 1 when it failed, 2 when it was called wrongly. Errors go to standard error. */
export async function run(args: string[]): Promise<number> {
  try {
    await programOf().parseAsync(withDefaults(args), { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    // Commander has printed its own.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    console.error(`error: ${textOf(error)}`);
    return error instanceof UsageError ? USAGE : FAILURE;
  }
}

/** Some of Node's errors have a code and no message, such as that of a refused connection. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.message || ((error as { code?: string }).code ?? error.name);
}
