import { execFileSync, spawnSync } from 'node:child_process';

/** Without what an npm that runs the tests says about itself: its place would be that of the install, too. */
export const environment = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^npm_(package|lifecycle|command|config_(local_prefix|workspaces?)$)/.test(name),
  ),
);

/** Returns what it prints. @throws Error with what it says on its standard error */
export function npm(cwd: string, ...args: string[]): string {
  return execFileSync('npm', args, {
    cwd,
    env: environment,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Whether packages are to be had, from its cache at least. */
export const hasPackages =
  spawnSync('npm', ['view', 'commander', 'version', '--prefer-offline', '--fetch-retries=0'], {
    env: environment,
  }).status === 0;
