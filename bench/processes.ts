import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

const running = new Set<ChildProcess>();
let isOver = false;

/** A process of this run; it ends with `endAll` at the latest. */
export function start(command: string, args: string[], options: SpawnOptions): ChildProcess {
  if (isOver) throw new Error('The run is over');
  const child = spawn(command, args, options);
  running.add(child);
  child.once('close', () => running.delete(child));
  child.once('error', () => running.delete(child)); // it could not be started
  return child;
}

/** Resolves when the process has ended by itself. @throws Error when it failed */
export async function succeeded(child: ChildProcess): Promise<void> {
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code !== 0)
    throw new Error(`${child.spawnargs.slice(0, 2).join(' ')} ended with ${code ?? signal ?? ''}`);
}

/** Resolves with all that the program prints. @throws Error when it failed */
export async function output(
  command: string,
  args: string[],
  { env = process.env, input }: { env?: NodeJS.ProcessEnv; input?: string } = {},
): Promise<string> {
  // To write nothing to a program that has ended already would be an error.
  const stdin = input === undefined ? 'ignore' : 'pipe';
  const child = start(command, args, { env, stdio: [stdin, 'pipe', 'inherit'] });
  let printed = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (printed += text));
  child.stdin?.end(input);
  await succeeded(child);
  return printed;
}

/** Hands each line that the process prints to `onLine`. */
export function onLines(child: ChildProcess, onLine: (line: string) => void): void {
  if (child.stdout !== null) createInterface({ input: child.stdout }).on('line', onLine);
}

/** Resolves when the process is gone. */
export async function end(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (!running.has(child)) return;
  const closed = once(child, 'close');
  child.kill(signal);
  await closed;
}

/** Ends what is still running, the newest first; nothing can be started any more. */
export async function endAll(): Promise<void> {
  isOver = true;
  for (const child of [...running].reverse()) await end(child, 'SIGKILL');
}
