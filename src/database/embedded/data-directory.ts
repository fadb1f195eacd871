import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { codeOf, type Identity, isOpenTo, readOrNull } from './identity.js';

/** Where data and binaries go when the user that root lends to Postgres cannot reach DATA_DIR. */
export const OPEN_DIRECTORY = '/var/lib/checkpoint-backend';
const LOCATION = new RegExp(`^${OPEN_DIRECTORY}/[0-9a-f-]{36}$`);
export const PASSWORD_FILE = 'checkpoint-backend.password';

/**
 * The directory that holds the cluster: `dataDir`, made when absent. When root's Postgres user cannot reach that place,
 * such as below a closed home directory, it is one below OPEN_DIRECTORY whose name `dataDir` remembers. The mode of a
 * directory that was there before is its owner's business.
 */
export function openBase(given: string, identity: Identity | undefined): string {
  const isNew = makeDirectory(resolve(given));
  const dataDir = realPath(resolve(given));
  if (identity === undefined) return dataDir;
  if (isNew && isOpenTo(dirname(dataDir), identity)) {
    chmodSync(dataDir, (statSync(dataDir).mode & 0o7777) | 0o011);
  }
  if (isOpenTo(dataDir, identity)) return dataDir;
  const pointer = join(dataDir, 'location');
  try {
    writeFileSync(pointer, join(OPEN_DIRECTORY, randomUUID()), { flag: 'wx' });
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw unusable(dataDir, error);
  }
  const base = readOrNull(pointer) ?? '';
  if (lstatSync(pointer).isSymbolicLink() || !LOCATION.test(base)) {
    throw new Error(
      `${pointer} is not what this service has written there. Set DATA_DIR to another directory.`,
    );
  }
  makeDirectory(base);
  return base;
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    throw unusable(path, error);
  }
}

/** Whether it was made. Step by step: below /proc, Node's own `recursive` never comes back. */
function makeDirectory(path: string): boolean {
  try {
    if (statSync(path).isDirectory()) return false;
    throw new Error('it is no directory');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT' || path === dirname(path)) throw unusable(path, error);
  }
  makeDirectory(dirname(path));
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return false; // by another service that starts; a link to nowhere fails later
    throw unusable(path, error);
  }
}

function unusable(path: string, cause: unknown): Error {
  const why = cause instanceof Error ? cause.message : String(cause);
  if (why.startsWith('DATA_DIR')) return cause as Error;
  return new Error(`DATA_DIR cannot be ${path}: ${why}`, { cause });
}

/** Whether there is a cluster of this service. @throws Error that says what else there is, and what to do */
export function holdsCluster(directory: string, identity: Identity | undefined): boolean {
  const found = lstatSync(directory, { throwIfNoEntry: false });
  if (found === undefined) return false;
  if (found.isSymbolicLink()) {
    throw new Error(
      `${directory} is a symbolic link. Set DATA_DIR to the directory above the one it leads to.`,
    );
  }
  if (!found.isDirectory()) throw new Error(`${directory} is no directory. Set DATA_DIR to another one.`);
  const names = namesIn(directory);
  if (names?.length === 0) return false;
  if (names !== null && !names.includes('PG_VERSION')) {
    throw new Error(
      `${directory} is no cluster of Postgres: it holds ${names.slice(0, 3).join(', ')}. Set DATA_DIR to another ` +
        'directory; a volume is mounted on DATA_DIR itself.',
    );
  }
  const user = identity?.uid ?? process.getuid?.();
  if (user !== undefined && found.uid !== user) {
    throw new Error(
      `${directory} belongs to user ${found.uid}, and Postgres runs as user ${user}, so it will not start there. ` +
        'Change its owner, or set DATA_DIR to another directory.',
    );
  }
  if (names === null) throw new Error(`${directory} cannot be read. Set DATA_DIR to another directory.`);
  if (!names.includes(PASSWORD_FILE)) {
    throw new Error(
      `${directory} is a cluster that this service has not made: it lacks ${PASSWORD_FILE}. Set DATA_DIR to another ` +
        'directory, or DATABASE_URL to the server of this one.',
    );
  }
  return true;
}

/** Null: it is closed to this user. */
function namesIn(directory: string): string[] | null {
  try {
    return readdirSync(directory);
  } catch {
    return null;
  }
}

/** Never through a link, which could lead root to any file. @throws Error */
export function openLog(path: string): number {
  // Windows has no O_NOFOLLOW, and undefined counts as 0.
  const { O_APPEND, O_CREAT, O_WRONLY, O_NOFOLLOW } = constants;
  try {
    return openSync(path, O_APPEND | O_CREAT | O_WRONLY | O_NOFOLLOW, 0o600);
  } catch (error) {
    if (codeOf(error) === 'ELOOP')
      throw new Error(`${path} is a symbolic link. Remove it.`, { cause: error });
    throw error;
  }
}

/** Leaves the target alone when another service was faster. */
export function renameInto(source: string, target: string, isThere: () => boolean): void {
  try {
    renameSync(source, target);
  } catch (error) {
    if (!isThere()) throw error;
    rmSync(source, { recursive: true, force: true });
  }
}
