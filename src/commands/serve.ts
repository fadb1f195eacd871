import { Command } from 'commander';

export function serveCommand(): Command {
  return new Command('serve')
    .description('Serve agents until SIGTERM. The default command.')
    .action(async () => {
      const { start } = await import('../server/start.js');
      process.exitCode = await start();
    });
}
