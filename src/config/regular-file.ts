import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { open } from 'node:fs/promises';

/** Far above any certificate or list of keys; what is larger is another file. */
const MAX_BYTES = 16 * 1024 * 1024;
/** What a pipe has is gone once it is read, and nobody may be at its other end: opening it must not wait. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK;

/** The text of a file of settings. @throws Error when it cannot be read, is no regular file or over 16 MiB */
export async function textOfFile(path: string): Promise<string> {
  const file = await open(path, FLAGS);
  try {
    check(await file.stat());
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

/** The same, at the start. */
export function textOfFileSync(path: string): string {
  const file = openSync(path, FLAGS);
  try {
    check(fstatSync(file));
    return readFileSync(file, 'utf8');
  } finally {
    closeSync(file);
  }
}

function check(stat: Stats): void {
  if (!stat.isFile()) throw new Error('is not a regular file');
  if (stat.size > MAX_BYTES) throw new Error(`is larger than ${MAX_BYTES} bytes`);
}
