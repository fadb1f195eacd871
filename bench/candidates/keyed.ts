import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newKeyText, partsOf } from '../../src/auth/domain/api-key.js';
import type { Database } from '../database.js';
import type { LoadResult } from '../load.js';
import type { Profile } from '../profiles.js';
import type { Signals, Task } from './candidate.js';
import { SERVICE, Served } from './served.js';

const TENANTS = ['even', 'odd'];

/** The service for two tenants: each thread is one's, and each request brings the key of its thread's. */
export class Keyed extends Served {
  private readonly keys: string[];

  constructor(database: Database) {
    const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-bench-keys-'));
    const file = join(directory, 'keys.json');
    process.once('exit', () => {
      rmSync(directory, { recursive: true, force: true });
    });
    super('keys', database, SERVICE, { AUTH_MODE: 'keys', API_KEYS_FILE: file });
    this.keys = TENANTS.map(() => newKeyText());
    const scopes = ['read', 'write', 'delete'];
    const lines = this.keys.map((key, at) => {
      const { id, hash } = partsOf(key);
      return { id, tenant: TENANTS[at], name: 'bench', scopes, hash: hash.toString('hex') };
    });
    writeFileSync(file, JSON.stringify(lines), { mode: 0o600 });
  }

  override async reload(profile: Profile, share: number): Promise<Pick<Task, 'threads' | 'checkpoints'>> {
    const stored = await super.reload(profile, share);
    for (const table of ['checkpoints', 'checkpoint_blobs', 'checkpoint_writes']) {
      // As HttpStore chooses the key: by the last hexadecimal digit of the thread's UUID.
      await this.database.query(
        `update ${table}
            set thread_id = chr(1) || ($1::text[])[('x' || right(thread_id, 1))::bit(4)::int % 2 + 1] || chr(1) || thread_id`,
        [TENANTS],
      );
    }
    await this.database.settle();
    return stored;
  }

  override run(task: Task, signals: Signals): Promise<LoadResult> {
    return super.run({ ...task, keys: this.keys }, signals);
  }
}
