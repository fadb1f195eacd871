import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endAll } from './processes.js';
import { type Server, startServer } from './server.js';

/**
 * Runs with a Postgres server, and ends this process: with 1 when the run failed or a signal came. Whatever the reason, nothing is
 * left behind.
 */
export async function runWithServer(
  prefix: string,
  run: (serverUrl: string) => Promise<void>,
): Promise<never> {
  const stopped = new Promise<never>((_, reject) => {
    process.on('uncaughtException', reject); // those after the first come of the clean-up
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        reject(new Error(`Ended by ${signal}`));
      });
    }
  });
  stopped.catch(() => undefined); // before there is a race
  const directory = mkdtempSync(join(tmpdir(), `checkpoint-backend-${prefix}-`));
  let server: Server | undefined;
  try {
    server = await startServer(directory);
    await Promise.race([run(server.url), stopped]);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  } finally {
    await endAll();
    await server?.stop();
    rmSync(directory, { recursive: true, force: true });
  }
  process.exit();
}
