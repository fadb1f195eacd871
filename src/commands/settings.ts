import { Command, Option } from 'commander';
import { DECLARATIONS } from '../config/declarations.js';
import { printJson, printTable } from './outcome.js';
import { defaultOf, plain, rangeOf, settingsAsEnv, settingsAsMarkdown } from './settings-listing.js';

export function settingsCommand(): Command {
  return new Command('settings')
    .description('List the settings of the service, with defaults and ranges.')
    .option('--json', 'as JSON')
    .addOption(
      new Option('--format <format>', 'as the file .env.example, or as the page of the manual')
        .choices(['env', 'markdown'])
        .conflicts('json'),
    )
    .action(settings);
}

function settings({ json, format }: { json?: true; format?: 'env' | 'markdown' }): void {
  if (format === 'env') process.stdout.write(settingsAsEnv());
  else if (format === 'markdown') process.stdout.write(settingsAsMarkdown());
  else if (json) {
    printJson(
      DECLARATIONS.map(({ name, group, unit, range, default: text, otherwise, meaning }) => ({
        ...{ name, group, unit, default: text },
        range: range === null ? null : plain(range),
        otherwise: otherwise === null ? null : plain(otherwise),
        meaning: plain(meaning),
      })),
    );
  } else {
    printTable(
      ['NAME', 'DEFAULT', 'MEANING', 'RANGE'],
      DECLARATIONS.map((setting) =>
        [setting.name, defaultOf(setting), setting.meaning, rangeOf(setting)].map(plain),
      ),
    );
  }
}
