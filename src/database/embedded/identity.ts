import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/** The user that Postgres runs as when root started the service: the first of these that exists. */
const UNPRIVILEGED = ['postgres', 'nobody'];

export interface Identity {
  uid: number;
  gid: number;
}

/** Postgres refuses to run as root, so another user is lent to it; undefined for everybody else. */
export function unprivilegedIdentity(): Identity | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const users = (readOrNull('/etc/passwd') ?? '').split('\n').map((line) => line.split(':'));
  for (const name of UNPRIVILEGED) {
    const user = users.find((fields) => fields[0] === name);
    if (user !== undefined) return { uid: Number(user[2]), gid: Number(user[3]) };
  }
  throw new Error(
    'Postgres cannot run as root, and there is neither a user postgres nor nobody. Set DATABASE_URL.',
  );
}

/** Whether the user may pass through the directory, whose path has no symbolic link, and every one on the way to it. */
export function isOpenTo(path: string, { uid, gid }: Identity): boolean {
  const { mode, uid: owner, gid: group } = statSync(path);
  const bit = owner === uid ? 0o100 : group === gid ? 0o010 : 0o001;
  return (mode & bit) !== 0 && (path === dirname(path) || isOpenTo(dirname(path), { uid, gid }));
}

export function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined;
}
