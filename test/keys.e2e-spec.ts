import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { hashOf, idOf, newKeyText } from '../src/auth/domain/api-key.js';
import { type Answer, startApp, type TestApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MAIN = fileURLToPath(new URL('../dist/src/main.js', import.meta.url));
const KEY = /^ckpt_[0-9A-Za-z]{12}_[0-9A-Za-z]{46}$/;
const READ = { thread_id: 'thread-1' };

const sent = (key: string) => ({ 'x-agent-api-key': key });

describe('the keys of the table', () => {
  let database: TestDatabase;
  let app: TestApp;
  let other: TestApp;
  let admin: string;
  beforeAll(async () => {
    database = await createDatabase();
    admin = await aKey(database, { name: 'admin', scopes: ['admin'] });
    const environment = { AUTH_MODE: 'keys', AUDIT_LOG: 'off' };
    [app, other] = [await startApp(environment, database), await startApp(environment, database)];
  });
  afterAll(async () => {
    for (const started of [app, other]) await started.close();
    await database.drop();
  });

  const manage = (operation: string, body: object, headers: Record<string, string> = {}): Promise<Answer> =>
    app.send(`/keys/${operation}`, body, { ...sent(admin), ...headers });
  const made = async (fields: object = {}): Promise<{ key: string; id: string }> =>
    (await manage('create', { name: 'agents', scopes: ['read', 'write'], ...fields })).json;
  const statusOf = async (on: TestApp, key: string) => (await on.post('get-tuple', READ, sent(key))).status;
  /** Resolves with the milliseconds that it took. */
  const ended = async (key: string): Promise<number> => {
    const began = Date.now();
    for (const instance of [app, other]) {
      await until('the key has ended', async () => (await statusOf(instance, key)) === 401);
    }
    return Date.now() - began;
  };

  it('a new one works at once, on every instance, and is shown once', async () => {
    const answer = await manage('create', { name: 'agents', scopes: ['read'], expires_in_seconds: 60 });
    expect([answer.status, answer.headers['cache-control']]).toEqual([200, 'no-store']);
    const { key, ...shown } = answer.json;
    expect(key).toMatch(KEY);
    expect(shown).toEqual({
      ...{ id: idOf(key), tenant: '', name: 'agents', scopes: ['read'], revoked_at: null },
      ...{ created_at: expect.any(String), expires_at: expect.any(String) },
    });
    expect(Date.parse(shown.expires_at) - Date.parse(shown.created_at)).toBe(60_000);
    expect([await statusOf(other, key), await statusOf(app, key)]).toEqual([200, 200]);
    const { text, json } = await manage('list', {});
    expect(json).toContainEqual(shown);
    expect(text).not.toContain(key.slice(18));
    expect(text).not.toContain('hash');
  });

  it('a burst of requests with a new one gets through', async () => {
    const { key } = await made();
    const statuses = await Promise.all(Array.from({ length: 60 }, () => statusOf(other, key)));
    expect(new Set(statuses)).toEqual(new Set([200]));
  });

  it('a revoked one ends on every instance within seconds, and may be revoked again', async () => {
    const { key, id } = await made();
    expect([await statusOf(app, key), await statusOf(other, key)]).toEqual([200, 200]);
    expect((await manage('revoke', { id })).status).toBe(204);
    expect(await ended(key)).toBeLessThan(15_000);
    const revokedAt = () => database.sql('select revoked_at from api_keys where id = $1', [id]);
    const first = await revokedAt();
    expect((await manage('revoke', { id })).status).toBe(204);
    expect(await revokedAt()).toEqual(first);
  });

  it('one that was deleted by hand ends, too', async () => {
    const { key, id } = await made();
    expect(await statusOf(other, key)).toBe(200);
    await database.sql('delete from api_keys where id = $1', [id]);
    expect(await ended(key)).toBeLessThan(15_000);
  });

  it('one that expires while it is in memory is refused from then on', async () => {
    const { key } = await made({ expires_in_seconds: 1 });
    expect(await statusOf(app, key)).toBe(200);
    await delay(1100);
    expect(await statusOf(app, key)).toBe(401);
  });

  it('are rotated under load without a failed request', async () => {
    const old = await made({ expires_in_seconds: 3600 });
    const pods = Array.from({ length: 8 }, () => ({ key: old.key }));
    const statuses = new Map<number, number>();
    let stopped = false;
    const running = pods.map(async (pod, n) => {
      while (!stopped) {
        const { status } = await (n % 2 === 0 ? app : other).post(
          'put',
          aPut({ thread_id: aThread() }),
          sent(pod.key),
        );
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    });
    await delay(300);
    const rotated = (await manage('rotate', { id: old.id, grace_seconds: 10 })).json;
    for (const pod of pods) {
      await delay(100);
      pod.key = rotated.key;
    }
    const during = await statusOf(app, old.key);
    await ended(old.key).finally(() => (stopped = true));
    await Promise.all(running);
    expect(during).toBe(200);
    expect([...statuses.keys()]).toEqual([200]);
    expect(statuses.get(200)).toBeGreaterThan(20);
    expect(rotated).toMatchObject({ name: 'agents', scopes: ['read', 'write'], tenant: '' });
    // It is to last as long as the old one was.
    expect(Date.parse(rotated.expires_at) - Date.parse(rotated.created_at)).toBe(3_600_000);
  });

  describe('a rotation whose answer is lost', () => {
    it.each([0, 60])(
      'with a grace of %i s leaves the old key, by which it is repeated',
      async (grace_seconds) => {
        const old = await made();
        await manage('rotate', { id: old.id, grace_seconds });
        await delay(2500);
        expect([await statusOf(app, old.key), await statusOf(other, old.key)]).toEqual([200, 200]);
        const again = (await manage('rotate', { id: old.id, grace_seconds: 0 })).json;
        expect([await statusOf(app, again.key), await statusOf(other, again.key)]).toEqual([200, 200]);
        await ended(old.key);
        expect(await statusOf(other, again.key)).toBe(200);
      },
    );

    it('of the key that asks for it leaves its holder a key', async () => {
      const { key } = (await manage('create', { name: 'admin', scopes: ['admin'] })).json;
      const rotate = () => app.send('/keys/rotate', { id: idOf(key), grace_seconds: 0 }, sent(key));
      await rotate();
      await delay(2500);
      const { status, json } = await rotate();
      expect([status, await statusOf(app, json.key)]).toEqual([200, 200]);
      await ended(key);
    });

    it('may be made good by rotating the key that never arrived', async () => {
      const old = await made();
      const lost = (await manage('rotate', { id: old.id, grace_seconds: 0 })).json;
      const { key } = (await manage('rotate', { id: lost.id, grace_seconds: 0 })).json;
      expect(await statusOf(app, key)).toBe(200);
      for (const before of [old.key, lost.key]) await ended(before);
    });

    it('ends the old key no earlier than its grace, however early the new one is used', async () => {
      const old = await made();
      const { key } = (await manage('rotate', { id: old.id, grace_seconds: 3600 })).json;
      expect([await statusOf(app, key), await statusOf(other, key)]).toEqual([200, 200]);
      await until('the first use is written', async () => {
        const { json } = await manage('list', {});
        return json.some((shown: { id: string; expires_at: string | null }) => {
          return shown.id === old.id && shown.expires_at !== null;
        });
      });
      expect([await statusOf(app, old.key), await statusOf(other, old.key)]).toEqual([200, 200]);
    });
  });

  it.each(['rotate', 'revoke'])('%s refuses what is no key of the tenant', async (operation) => {
    const { id } = await made();
    const refused = [
      await manage(operation, { id: 'nobodys' }),
      await manage(operation, { id }, { 'x-tenant': 'another' }),
    ];
    for (const { status, json } of refused) {
      expect([status, json.errors]).toEqual([
        422,
        [{ pointer: '#/id', detail: 'is no key of the tenant, or has ended' }],
      ]);
    }
  });

  it('one that has ended is not rotated', async () => {
    const { id } = await made();
    await manage('revoke', { id });
    expect((await manage('rotate', { id })).status).toBe(422);
  });

  it('belong to the tenant that the admin acts for', async () => {
    const { json } = await manage('create', { name: 'theirs', scopes: ['admin'] }, { 'x-tenant': 'team-b' });
    expect(json.tenant).toBe('team-b');
    const ids = async (headers: Record<string, string>) =>
      (await app.send('/keys/list', {}, headers)).json.map(({ id }: { id: string }) => id);
    expect(await ids(sent(json.key))).toEqual([json.id]);
    expect(await ids({ ...sent(admin), 'x-tenant': 'team-b' })).toEqual([json.id]);
    expect(await ids(sent(admin))).not.toContain(json.id);
  });

  it.each([
    ['no name', { scopes: ['read'] }],
    ['a long name', { name: 'n'.repeat(201), scopes: ['read'] }],
    ['NUL in a name', { name: 'a\0b', scopes: ['read'] }],
    ['no scopes', { name: 'n', scopes: [] }],
    ['an unknown scope', { name: 'n', scopes: ['all'] }],
    ['an end in the past', { name: 'n', scopes: ['read'], expires_in_seconds: -1 }],
  ])('create refuses %s', async (_, body) => {
    const { status, json } = await manage('create', body);
    expect([status, json.type]).toEqual([422, '/problems/invalid-request']);
  });

  it("keeps SQL in names, and in ids, what it is: somebody's text", async () => {
    const name = `x'); drop table api_keys; --"\\`;
    const { key, id } = await made({ name });
    expect((await manage('list', {})).json).toContainEqual(expect.objectContaining({ id, name }));
    expect((await manage('revoke', { id: `${id}' or '1'='1` })).status).toBe(422);
    expect(await statusOf(app, key)).toBe(200);
  });

  it('takes nothing of a header that somebody put together', async () => {
    const { key } = await made();
    for (const value of [
      `${key},${key}`,
      `${key} `.repeat(2),
      `'${key}' or true`,
      `${key}%00`,
      key.toLowerCase(),
    ]) {
      expect(await statusOf(app, value)).toBe(401);
    }
    const { status } = await app.post('get-tuple', READ, {
      ...sent(key),
      'x-tenant': "a'; drop table api_keys",
    });
    expect(status).toBe(403);
  });

  it('a flood of invented ones costs ten queries a second, and the good ones go on', async () => {
    // With a database of its own: Postgres counts what others asked up to ten seconds late.
    const app = await startApp({ AUTH_MODE: 'keys', AUDIT_LOG: 'off' });
    const key = await aKey(app.database, { scopes: ['read'] });
    expect(await statusOf(app, key)).toBe(200);
    const transactions = async () => {
      await delay(1500);
      const [row] = await app.database.sql<{ count: string }>(
        'select xact_commit + xact_rollback as count from pg_stat_database where datname = current_database()',
      );
      return Number(row!.count);
    };
    const before = await transactions();
    const began = Date.now();
    let floods = 0;
    while (Date.now() - began < 4000) {
      const flood = await RawClient.open(app.url);
      for (let n = 0; n < 200; n += 1) {
        flood.post('get-tuple', 'Content-Length: 0', `x-agent-api-key: ${newKeyText()}`);
      }
      expect((await app.send('/keys/revoke', {}, sent(key))).status).toBe(403);
      await until('all are refused', () => flood.answer.split('HTTP/1.1 401').length > 200);
      flood.socket.destroy();
      floods += 200;
    }
    const seconds = (Date.now() - began) / 1000 + 3;
    const queries = (await transactions()) - before;
    expect(floods).toBeGreaterThan(300);
    // Ten look-ups, and a look at the version; and ours.
    expect(queries).toBeLessThan(12 * seconds + 10);
    await app.close();
  }, 60_000);

  it('a new one works within a second or so even then', async () => {
    let stopped = false;
    const flood = Array.from({ length: 8 }, async () => {
      while (!stopped) await statusOf(other, newKeyText());
    });
    const { key } = await made();
    const began = Date.now();
    await until('it works', async () => (await statusOf(other, key)) === 200);
    expect(Date.now() - began).toBeLessThan(15_000);
    stopped = true;
    await Promise.all(flood);
  });
});

describe('a look-up that is answered late', () => {
  /** What the database answers to the first statement that the pattern fits is held back until it is let go. */
  async function aHold(target: URL, pattern: RegExp) {
    let letGo: () => void = () => undefined;
    let isHeld = false;
    const released = new Promise<void>((resolve) => (letGo = resolve));
    const server = net.createServer((incoming) => {
      const outgoing = net.connect(Number(target.port), target.hostname);
      for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
      let waits: Promise<void> | null = null;
      incoming.on('data', (chunk: Buffer) => {
        if (!isHeld && pattern.test(chunk.toString('latin1'))) {
          isHeld = true;
          waits = released;
        }
        outgoing.write(chunk);
      });
      outgoing.on('data', (chunk: Buffer) => {
        if (waits === null) incoming.write(chunk);
        else void waits.then(() => incoming.write(chunk));
      });
      incoming.on('close', () => outgoing.destroy());
      outgoing.on('close', () => incoming.destroy());
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as net.AddressInfo;
    const url = Object.assign(new URL(target), { hostname: '127.0.0.1', port: String(port) }).href;
    return { url, letGo, isHeld: () => isHeld, close: () => server.close() };
  }
  const LOOK_UP = /from "public"\.api_keys[^]*id = \$1/;

  it.each([
    { what: 'revoked', sql: 'update api_keys set revoked_at = now() where id = $1', late: 401, after: 401 },
    { what: 'deleted', sql: 'delete from api_keys where id = $1', late: 401, after: 401 },
    { what: 'ended', sql: 'update api_keys set expires_at = now() where id = $1', late: 401, after: 401 },
    { what: 'renamed', sql: `update api_keys set name = 'new' where id = $1`, late: 200, after: 200 },
  ])('does not bring back a key that was $what meanwhile', async ({ sql, late, after }) => {
    const database = await createDatabase();
    const hold = await aHold(new URL(database.url), LOOK_UP);
    const app = await startApp({ AUTH_MODE: 'keys', AUDIT_LOG: 'off', DATABASE_URL: hold.url }, database);
    const statusOf = async (key: string) => (await app.post('get-tuple', READ, sent(key))).status;
    try {
      const key = await aKey(database);
      const first = statusOf(key);
      await until('it is looked for', hold.isHeld);
      await database.sql(sql, [idOf(key)]);
      await delay(2500);
      hold.letGo();
      expect(await first).toBe(late);
      for (let n = 0; n < 20; n += 1) expect(await statusOf(key)).toBe(after);
      await delay(1500);
      expect(await statusOf(key)).toBe(after);
    } finally {
      hold.letGo();
      await app.close();
      hold.close();
      await database.drop();
    }
  });
});

it.each([
  [{ AUTH_MODE: 'none' }, {}],
  [{ AUTH_MODE: 'keys', API_KEYS_FILE: 'a file' }, { 'x-agent-api-key': 'its admin' }],
])('with %j keys are managed elsewhere', async (environment, headers) => {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-keys-'));
  const file = join(directory, 'keys.json');
  const text = newKeyText();
  writeFileSync(file, JSON.stringify([aLine(text, { scopes: ['admin'] })]));
  const app = await startApp({
    ...environment,
    ...('API_KEYS_FILE' in environment && { API_KEYS_FILE: file }),
  });
  for (const operation of ['create', 'list', 'revoke', 'rotate']) {
    const { status, json } = await app.send(
      `/keys/${operation}`,
      { name: 'n', scopes: ['read'], id: 'x' },
      'x-agent-api-key' in headers ? sent(text) : {},
    );
    expect([status, json.type]).toEqual([409, '/problems/keys-elsewhere']);
  }
  expect(await app.database.sql('select * from api_keys')).toEqual([]);
  await app.close();
  rmSync(directory, { recursive: true });
});

describe('API_KEYS_FILE', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-keys-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  /** As Kubernetes mounts a secret: the files are links through a link that is swapped. */
  let versions = 0;
  const mount = (text: string) => {
    const version = `..version-${(versions += 1)}`;
    mkdirSync(join(directory, version));
    writeFileSync(join(directory, version, 'keys.json'), text);
    symlinkSync(version, join(directory, '..data-new'));
    renameSync(join(directory, '..data-new'), join(directory, '..data'));
  };

  it('is read again when it is swapped; a broken one leaves what was', async () => {
    const [first, second] = [newKeyText(), newKeyText()];
    mount(JSON.stringify([aLine(first)]));
    symlinkSync('..data/keys.json', join(directory, 'keys.json'));
    const app = await startApp({ AUTH_MODE: 'keys', API_KEYS_FILE: join(directory, 'keys.json') });
    const statusOf = async (key: string) => (await app.post('get-tuple', READ, sent(key))).status;
    expect([await statusOf(first), await statusOf(second)]).toEqual([200, 401]);
    mount(JSON.stringify([aLine(second)]));
    await until('the second works', async () => (await statusOf(second)) === 200);
    expect(await statusOf(first)).toBe(401);
    mount('[');
    await delay(2500);
    expect([await statusOf(first), await statusOf(second)]).toEqual([401, 200]);
    rmSync(join(directory, '..data'));
    await delay(1500);
    expect(await statusOf(second)).toBe(200);
    mount(JSON.stringify([aLine(first), aLine(second)]));
    await until('the first works again', async () => (await statusOf(first)) === 200);
    await app.close();
  });
});

describe('checkpoint-backend keys', () => {
  let database: TestDatabase;
  let app: TestApp;
  beforeAll(async () => {
    database = await createDatabase();
    app = await startApp({ AUTH_MODE: 'keys' }, database);
  });
  afterAll(async () => {
    await app.close();
    await database.drop();
  });

  const run = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    const env = { PATH: process.env.PATH, DATABASE_URL: database.url, AUDIT_LOG: 'table' };
    return promisify(execFile)(process.execPath, [MAIN, 'keys', ...args], { env, cwd: tmpdir() }).then(
      ({ stdout, stderr }) => ({ code: 0, out: stdout.trim(), err: stderr }),
      (error: unknown) => {
        const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
        return { code, out: stdout, err: stderr };
      },
    );
  };
  const statusOf = async (key: string) => (await app.post('get-tuple', READ, sent(key))).status;

  it('creates, lists, rotates and revokes them', async () => {
    const created = await run(
      'create',
      '--name',
      'pods',
      '--scopes',
      'read,write',
      '--tenant',
      'team',
      '--expires',
      '90d',
    );
    expect(created).toEqual({ code: 0, out: expect.stringMatching(KEY), err: '' });
    expect(await statusOf(created.out)).toBe(200);
    const id = idOf(created.out)!;

    const rotated = await run('rotate', id, '--grace', '0s');
    expect(rotated.out).toMatch(KEY);
    expect(await statusOf(rotated.out)).toBe(200);
    await until('the old one has ended', async () => (await statusOf(created.out)) === 401);

    const listed = (await run('list', '--tenant', 'team')).out.split('\n').map((line) => line.split(/ {2,}/));
    expect(listed.map((cells) => cells.slice(0, 4))).toEqual([
      ['ID', 'TENANT', 'NAME', 'SCOPES'],
      [id, 'team', '"pods"', 'read,write'],
      [idOf(rotated.out), 'team', '"pods"', 'read,write'],
    ]);
    expect(JSON.parse((await run('list', '--tenant', 'team', '--json')).out)).toMatchObject([
      { id, tenant: 'team', name: 'pods', scopes: ['read', 'write'] },
      { id: idOf(rotated.out) },
    ]);

    expect(await run('revoke', idOf(rotated.out)!)).toEqual({ code: 0, out: '', err: '' });
    await until('it has ended', async () => (await statusOf(rotated.out)) === 401);
    expect((await run('rotate', idOf(rotated.out)!)).err).toContain('is no key of the tenant, or has ended');

    const events = await database.sql<{ operation: string; outcome: string }>(
      'select operation, outcome, subject, detail from audit_log order by id',
    );
    expect(events.map(({ operation, outcome }) => [operation, outcome])).toEqual([
      ['keys-create', 'done'],
      ['keys-rotate', 'done'],
      ['keys-revoke', 'done'],
    ]);
    expect(events[0]).toMatchObject({
      subject: expect.stringContaining('the command line'),
      detail: { made: id },
    });
  }, 180_000);

  it('makes a line for API_KEYS_FILE', async () => {
    const [key, line] = (
      await run('hash', '--name', 'pods', '--scopes', 'read', '--expires', '1h')
    ).out.split('\n');
    expect(JSON.parse(line!)).toEqual({
      ...{ id: idOf(key!), tenant: '', name: 'pods', scopes: ['read'], hash: hashOf(key!).toString('hex') },
      expires: expect.any(String),
    });
  });

  it('fails for a key that is not there', async () => {
    const { code, out, err } = await run('revoke', 'zzz');
    expect([code, out, err]).toEqual([1, '', 'error: id is no key of the tenant, or has ended\n']);
  });
});

function aLine(text: string, fields: object = {}): object {
  return {
    ...{ id: idOf(text), tenant: 'one', name: 'pods', scopes: ['read'], hash: hashOf(text).toString('hex') },
    ...fields,
  };
}
