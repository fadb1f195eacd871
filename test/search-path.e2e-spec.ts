import { execFile } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { startApp } from './support/app.js';
import { aPut, aPutWrites, aWrite, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { aTap } from './support/tap.js';

const MAIN = fileURLToPath(new URL('../dist/src/main.js', import.meta.url));

/** Words of the grammar that are followed by a parenthesis, and are the names of functions as well. */
const GRAMMAR = new Set([
  'extract',
  'coalesce',
  'array',
  'cast',
  'row',
  'any',
  'exists',
  'nullif',
  'greatest',
  'least',
]);

/**
 * The functions that a statement names without their schema, and that take arguments: one of those types exactly, in any
 * schema of the search path, would be called instead where Postgres's own takes others by conversion.
 */
function unqualifiedIn(statement: string, functions: ReadonlySet<string>): string[] {
  const code = statement
    .replace(/--[^\n]*/g, '')
    .replace(/'(?:[^']|'')*'/g, "''")
    // Columns of a relation: `as w (task_id, idx)`, `insert into t (id)`.
    .replace(/\b(as|into|on|with ordinality) +[\w".]+ *\(/gi, '$1 (');
  return [...code.matchAll(/(?<![.\w"])([a-z_]\w*) *\((?! *\))/gi)]
    .map(([, name]) => name!.toLowerCase())
    .filter((name) => functions.has(name) && !GRAMMAR.has(name));
}

it.each(['true', 'false'])(
  'leaves no function of any statement to the search path, with FAST_PATH=%s',
  async (FAST_PATH) => {
    const database = await createDatabase({ like: 'empty' });
    const tap = await aTap(new URL(database.url));
    const environment = { AUTH_MODE: 'keys', AUDIT_LOG: 'table', FAST_PATH, DATABASE_URL: tap.url };
    const run = (...args: string[]) =>
      promisify(execFile)(process.execPath, [MAIN, ...args], {
        env: { PATH: process.env.PATH, ...environment },
        cwd: tmpdir(),
      });
    await run('migrate');
    const app = await startApp(environment, database);
    const headers = { 'x-agent-api-key': await aKey(database, { scopes: ['admin'] }) };
    const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64('blob') }];
    const checkpoint = { v: 3, channel_versions: { a: '1' } };
    const metadata = { run_id: 'r', counters_since_delta_snapshot: { a: 1 } };
    const thread_id = 't';
    const include = ['blobs', 'pending_writes', 'pending_sends'];
    const requests: [string, object][] = [
      ['put', aPut({ thread_id, checkpoint_id: '1', checkpoint, blobs, metadata })],
      ['put', aPut({ thread_id, checkpoint_id: '2', parent_checkpoint_id: '1', checkpoint, metadata })],
      ...[true, false].map((upsert): [string, object] => [
        'put-writes',
        aPutWrites({ thread_id, checkpoint_id: '2', writes: [aWrite()], upsert }),
      ]),
      ['get-tuple', { thread_id, include }],
      ['list', { thread_id, include, filter_metadata: { run_id: 'r' } }],
      ['list', { limit: 1, include }],
      ['list', { thread_id, limit: 1, before_checkpoint_id: '2' }],
      ['delta-channel-history', { thread_id, channels: ['a'] }],
      ['copy-thread', { source_thread_id: thread_id, target_thread_id: 'other' }],
      ['prune', { thread_ids: ['other'], strategy: 'keep_latest' }],
      ['prune', { thread_ids: ['other'], strategy: 'delete' }],
      ['delete-for-runs', { run_ids: ['r'] }],
      ['delete-thread', { thread_id }],
    ];
    for (const [operation, body] of requests) {
      const { status } = await app.post(operation, body, headers);
      expect([operation, Math.trunc(status / 100)]).toEqual([operation, 2]);
    }
    const made = (await app.send('/keys/create', { name: 'n', scopes: ['read'] }, headers)).json;
    const rotated = (await app.send('/keys/rotate', { id: made.id }, headers)).json;
    await app.post('get-tuple', { thread_id }, { 'x-agent-api-key': rotated.key });
    await app.send('/keys/list', {}, headers);
    await app.send('/keys/revoke', { id: made.id }, headers);
    expect((await app.get('/health/ready')).status).toBe(200);
    await app.post('put', aPut({ thread_id: 'moved' }), headers);
    await run('tenants', 'move', '--tenant', 'team', '--thread', 'moved');
    await run('tenants', 'list');
    const values = ['a', 'b', 'c'].map((text) => text.repeat(3000));
    for (const at of values.keys()) {
      const id = String(at + 1);
      await app.post(
        'put',
        aPut({
          ...{
            thread_id: 'compacted',
            checkpoint_id: id,
            parent_checkpoint_id: at === 0 ? null : String(at),
          },
          checkpoint: { v: 4, channel_versions: { a: id } },
          blobs: [{ channel: 'a', version: id, type: 't', blob: base64(values.slice(0, at + 1).join('')) }],
        }),
        headers,
      );
    }
    const writes = [aWrite({ blob: base64(`Send ${values.join('')}`) })];
    await app.post('put-writes', aPutWrites({ thread_id: 'compacted', checkpoint_id: '3', writes }), headers);
    await run('blobs', 'compact', '--older-than', '1h');
    expect((await run('blobs', 'compact')).stdout).toMatch(/^stored 3 values /);
    await run('blobs', 'status', '--tenant', 'team');
    await run('blobs', 'verify', '--sweep');
    await database.sql(
      `insert into checkpoint_deltas (thread_id, log, at, delta) values ('unused', 1, 0, '')`,
    );
    await run('blobs', 'verify', '--sweep').catch(() => undefined);
    await run('blobs', 'expand', '--all', '--yes');
    await app.close();

    const rows = await database.sql<{ name: string }>(
      `select distinct proname as name from pg_proc where pronamespace = 'pg_catalog'::regnamespace`,
    );
    const functions = new Set(rows.map(({ name }) => name));
    const statements = new Set(tap.statements);
    expect(statements.size).toBeGreaterThan(30);
    const found = [...statements].flatMap((statement) =>
      unqualifiedIn(statement, functions).map((name) => `${name} in ${statement.trim().slice(0, 200)}`),
    );
    expect(found).toEqual([]);
    tap.close();
    await database.drop();
  },
  120_000,
);
