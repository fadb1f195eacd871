import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hashOf, idOf, newKeyText } from '../src/auth/domain/api-key.js';
import { SCOPES, SCOPES_OF, type Scope } from '../src/request/principal.js';
import { type Answer, startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites, aThread } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey, type KeyFields, withAnotherSecret } from './support/keys.js';

const BODIES: Record<string, () => object | string> = {
  'get-tuple': () => ({ thread_id: aThread() }),
  put: () => aPut({ thread_id: aThread() }),
  'put-writes': () => aPutWrites({ thread_id: aThread() }),
  batch: () => `{"operation":"put"}\n${JSON.stringify(aPut({ thread_id: aThread() }))}\n`,
  list: () => ({ thread_id: aThread() }),
  'delete-thread': () => ({ thread_id: aThread() }),
  'copy-thread': () => ({ source_thread_id: aThread(), target_thread_id: aThread() }),
  'delete-for-runs': () => ({ run_ids: ['run-1'] }),
  prune: () => ({ thread_ids: [aThread()], strategy: 'delete' }),
  'delta-channel-history': () => ({ thread_id: aThread(), channels: [] }),
};
const OPERATIONS = Object.keys(BODIES);
const typeOf = (operation: string) =>
  operation === 'batch' ? { 'content-type': 'application/x-ndjson' } : undefined;
const LATER = new Date(Date.now() + 3_600_000);
const EARLIER = new Date(Date.now() - 1000);

const UNAUTHORIZED = {
  type: '/problems/unauthorized',
  status: 401,
  title: 'No valid key',
  detail: 'A valid key is needed, as x-agent-api-key or as Authorization: Bearer',
};

interface Case {
  name: string;
  status: 200 | 401 | 403;
  /** The key that is sent, given what the operation takes. */
  headers: (
    key: (fields: KeyFields) => Promise<string>,
    needed: readonly Scope[],
  ) => Promise<Record<string, string>>;
}

const sent = (key: string) => ({ 'x-agent-api-key': key });
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

const CASES: Case[] = [
  { name: 'no key', status: 401, headers: () => Promise.resolve({}) },
  { name: 'an empty key', status: 401, headers: () => Promise.resolve(sent('')) },
  { name: 'a key that nobody made', status: 401, headers: () => Promise.resolve(sent(newKeyText())) },
  {
    name: 'another secret of a key',
    status: 401,
    headers: async (key) => sent(withAnotherSecret(await key({ scopes: [...SCOPES] }))),
  },
  {
    name: 'a key with a typing error',
    status: 401,
    headers: async (key) =>
      sent((await key({ scopes: [...SCOPES] })).replace(/.$/, (c) => (c === 'a' ? 'b' : 'a'))),
  },
  {
    name: 'a key that has expired',
    status: 401,
    headers: async (key) => sent(await key({ scopes: [...SCOPES], expiresAt: EARLIER })),
  },
  {
    name: 'a key that was revoked',
    status: 401,
    headers: async (key) => sent(await key({ scopes: [...SCOPES], revokedAt: EARLIER })),
  },
  {
    name: 'a key as Basic',
    status: 401,
    headers: async (key) => ({ authorization: `Basic ${await key({ scopes: [...SCOPES] })}` }),
  },
  { name: 'a key without scopes', status: 403, headers: async (key) => sent(await key({ scopes: [] })) },
  {
    name: 'a key with every other scope',
    status: 403,
    headers: async (key, needed) =>
      sent(await key({ scopes: SCOPES.filter((scope) => scope !== 'admin' && !needed.includes(scope)) })),
  },
  {
    name: 'a key with all but one of its scopes',
    status: 403,
    headers: async (key, needed) => sent(await key({ scopes: needed.slice(1) })),
  },
  {
    name: 'a key with its scopes that names another tenant',
    status: 403,
    headers: async (key, needed) => ({
      ...sent(await key({ tenant: 'one', scopes: [...needed] })),
      'x-tenant': 'two',
    }),
  },
  {
    name: 'an admin key that names what is no tenant',
    status: 403,
    headers: async (key) => ({ ...sent(await key({ scopes: ['admin'] })), 'x-tenant': 'Two/..' }),
  },
  {
    name: 'a key with its scopes',
    status: 200,
    headers: async (key, needed) => sent(await key({ scopes: [...needed] })),
  },
  {
    name: 'a key with its scopes, as Bearer',
    status: 200,
    headers: async (key, needed) => bearer(await key({ scopes: [...needed] })),
  },
  {
    name: 'a key with its scopes that names its own tenant',
    status: 200,
    headers: async (key, needed) => ({
      ...sent(await key({ tenant: 'one', scopes: [...needed] })),
      'x-tenant': 'one',
    }),
  },
  {
    name: 'a key that expires later',
    status: 200,
    headers: async (key, needed) => sent(await key({ scopes: [...needed], expiresAt: LATER })),
  },
  { name: 'an admin key', status: 200, headers: async (key) => sent(await key({ scopes: ['admin'] })) },
  {
    name: 'an admin key that names another tenant',
    status: 200,
    headers: async (key) => ({ ...sent(await key({ tenant: 'one', scopes: ['admin'] })), 'x-tenant': 'two' }),
  },
];

it('every operation under /checkpoints is in the table', () => {
  expect(OPERATIONS.sort()).toEqual(
    Object.keys(SCOPES_OF)
      .filter((operation) => !operation.startsWith('keys-'))
      .sort(),
  );
});

describe.each(['true', 'false'])('with FAST_PATH=%s', (fastPath) => {
  describe('AUTH_MODE=keys', () => {
    let app: TestApp;
    let database: TestDatabase;
    const known = new Map<string, Promise<string>>();
    /** One key for all cases with these fields, so that few are looked up. */
    const key = (fields: KeyFields) => {
      const text = JSON.stringify(fields);
      const made = known.get(text) ?? aKey(database, fields);
      known.set(text, made);
      return made;
    };
    beforeAll(async () => {
      known.clear();
      database = await createDatabase();
      for (const operation of OPERATIONS) {
        for (const { headers } of CASES) await headers(key, SCOPES_OF[operation]!);
      }
      app = await startApp({ AUTH_MODE: 'keys', FAST_PATH: fastPath }, database);
    });
    afterAll(async () => {
      await app.close();
      await database.drop();
    });

    describe.each(OPERATIONS)('%s', (operation) => {
      it.each(CASES)('answers $status for $name', async ({ headers, status }) => {
        const answer = await app.post(operation, BODIES[operation]!(), {
          ...typeOf(operation),
          ...(await headers(key, SCOPES_OF[operation]!)),
        });
        if (status === 200) expect([200, 204]).toContain(answer.status);
        else expect(answer.status).toBe(status);
        if (status === 401) expectUnauthorized(answer);
        if (status === 403)
          expect(answer.json).toMatchObject({ type: '/problems/forbidden', title: 'Not allowed' });
      });
    });

    it.each([
      '/Checkpoints/PUT',
      '/checkpoints/put/',
      '/checkpoints/put?x=1',
      '//checkpoints/put',
      '/checkpoints/%70ut',
    ])('lets nobody in by %s', async (path) => {
      const response = await fetch(app.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(aPut()),
      });
      expect([401, 404]).toContain(response.status);
    });

    it.each(['/health/live', '/health/ready', '/metrics', '/docs', '/openapi.json'])(
      '%s needs no key',
      async (path) => {
        expect((await app.get(path)).status).toBe(200);
      },
    );

    it('says of an unknown route that there is none', async () => {
      expect((await app.post('no-such-operation', {})).status).toBe(404);
    });

    it('refuses before it has read the body', async () => {
      // Neither JSON nor of a known type: what would be said of either is not said to a stranger.
      const answer = await app.post('put', '{', { 'content-type': 'text/plain' });
      expectUnauthorized(answer);
    });
  });

  it.each(['put', 'get-tuple', 'list', 'delete-thread'])(
    'AUTH_MODE=none refuses a %s for a tenant, which there is not',
    async (operation) => {
      const app = await startApp({ AUTH_MODE: 'none', FAST_PATH: fastPath });
      const answer = await app.post(operation, BODIES[operation]!(), { 'x-tenant': 'team-a' });
      expect([answer.status, answer.json.type]).toEqual([422, '/problems/invalid-request']);
      expect(answer.json.errors).toEqual([
        { pointer: '#', detail: 'x-tenant has no meaning with AUTH_MODE=none' },
      ]);
      await app.close();
    },
  );

  it('AUTH_MODE=none asks nobody', async () => {
    const app = await startApp({ AUTH_MODE: 'none', FAST_PATH: fastPath });
    for (const operation of OPERATIONS) {
      const { status } = await app.post(operation, BODIES[operation]!(), {
        ...typeOf(operation),
        ...sent('whatever'),
      });
      expect([200, 204]).toContain(status);
    }
    await app.close();
  });
});

describe('API_KEYS_FILE', () => {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-keys-'));
  const file = join(directory, 'keys.json');
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });
  const line = (text: string, fields: object = {}) => ({
    ...{ id: idOf(text), tenant: 'one', name: 'pods', scopes: ['read'], hash: hashOf(text).toString('hex') },
    ...fields,
  });
  const start = () => startApp({ AUTH_MODE: 'keys', API_KEYS_FILE: file });

  it('holds the keys, with their scopes and their end', async () => {
    const [good, expired] = [newKeyText(), newKeyText()];
    writeFileSync(file, JSON.stringify([line(good), line(expired, { expires: EARLIER.toISOString() })]));
    const app = await start();
    try {
      expect((await app.post('get-tuple', { thread_id: 't' }, sent(good))).status).toBe(200);
      expect((await app.post('put', aPut(), sent(good))).status).toBe(403);
      for (const other of [expired, withAnotherSecret(good), newKeyText()]) {
        expectUnauthorized(await app.post('get-tuple', { thread_id: 't' }, sent(other)));
      }
      expectUnauthorized(
        await app.post('get-tuple', { thread_id: 't' }, sent(await aKey(app.database, { scopes: ['read'] }))),
      );
    } finally {
      await app.close();
    }
  });

  it.each([
    { what: 'no JSON', text: 'no JSON', fault: /keys\.json: is not JSON/ },
    { what: 'no list', text: '{}', fault: /expected array/ },
    {
      what: 'an unknown scope',
      text: JSON.stringify([line(newKeyText(), { scopes: ['all'] })]),
      fault: /#\/0\/scopes\/0/,
    },
    {
      what: 'an impossible tenant',
      text: JSON.stringify([line(newKeyText(), { tenant: 'A b' })]),
      fault: /#\/0\/tenant is no name of a tenant/,
    },
  ])('with $what stops the start', async ({ text, fault }) => {
    writeFileSync(file, text);
    await expect(start()).rejects.toThrow(fault);
  });
});

function expectUnauthorized({ status, headers, json }: Answer): void {
  expect([status, headers['www-authenticate']]).toEqual([401, 'Bearer']);
  expect(json).toEqual(UNAUTHORIZED);
}
