import { Command } from 'commander';
import { helpOfSettings } from './settings-listing.js';

export function serveCommand(): Command {
  return new Command('serve')
    .description('Serve agents until SIGTERM. The default command.')
    .addHelpText('after', () => `\n${helpOfSettings()}`)
    .action(async () => {
      const { start } = await import('../server/start.js');
      process.exitCode = await start();
    });
}
