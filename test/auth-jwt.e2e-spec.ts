import { createHmac, createPublicKey } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type CryptoKey, exportJWK, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';
import { startApp, type TestApp } from './support/app.js';
import { aPut } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { aKey } from './support/keys.js';
import { until } from './support/process.js';

const ISSUER = 'https://issuer.example';
const AUDIENCE = 'checkpoints';
const CRITICAL = 'urn:example:critical';
const READ = { thread_id: 'thread-1' };

interface IssuerKey {
  kid: string;
  alg: string;
  privateKey: CryptoKey;
  publicKey: CryptoKey;
}

async function aKeyPair(kid: string, alg = 'RS256'): Promise<IssuerKey> {
  return { kid, alg, ...(await generateKeyPair(alg, { extractable: true })) };
}

/** An issuer's address with its keys; what it serves can change, and it can be out of order. */
class Issuer {
  keys: IssuerKey[] = [];
  isBroken = false;
  asked = 0;
  private constructor(private readonly server: http.Server) {}

  static async open(...keys: IssuerKey[]): Promise<Issuer> {
    const server = http.createServer();
    const issuer = new Issuer(server);
    issuer.keys = keys;
    server.on('request', (_request, response) => {
      issuer.asked += 1;
      if (issuer.isBroken) response.writeHead(500).end();
      else
        void issuer.jwks().then((jwks) => response.setHeader('content-type', 'application/json').end(jwks));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return issuer;
  }

  async jwks(): Promise<string> {
    const keys = this.keys.map(async ({ kid, alg, publicKey }) => ({
      ...(await exportJWK(publicKey)),
      ...{ kid, alg, use: 'sig' },
    }));
    return JSON.stringify({ keys: await Promise.all(keys) });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/keys`;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }
}

const now = () => Math.floor(Date.now() / 1000);

/** A token with these claims beside what every good one has; undefined takes one away. */
async function aToken(key: IssuerKey, claims: JWTPayload = {}, header: object = {}): Promise<string> {
  const payload: JWTPayload = {
    ...{ iss: ISSUER, aud: AUDIENCE, sub: 'pod-1', exp: now() + 300, tenant: 'team', scope: 'read write' },
    ...claims,
  };
  return new SignJWT(payload)
    .setProtectedHeader({ alg: key.alg, kid: key.kid, ...header })
    .sign(key.privateKey, { crit: { [CRITICAL]: true } });
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

describe('AUTH_MODE=keys,jwt', () => {
  let database: TestDatabase;
  let issuer: Issuer;
  let app: TestApp;
  let rsa: IssuerKey;
  let ec: IssuerKey;
  let ed: IssuerKey;
  let stranger: IssuerKey;
  beforeAll(async () => {
    [rsa, ec, ed] = [await aKeyPair('rsa'), await aKeyPair('ec', 'ES256'), await aKeyPair('ed', 'EdDSA')];
    stranger = await aKeyPair('rsa');
    issuer = await Issuer.open(rsa, ec, ed);
    database = await createDatabase();
    app = await startApp(
      {
        ...{ AUTH_MODE: 'keys,jwt', AUDIT_LOG: 'table' },
        ...{ JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE, JWT_JWKS_URL: issuer.url },
      },
      database,
    );
  });
  afterAll(async () => {
    await app.close();
    issuer.close();
    await database.drop();
  });

  const read = (token: string) => app.post('get-tuple', READ, bearer(token));
  const statusOf = async (token: string) => (await read(token)).status;

  it('takes tokens of each algorithm, keys, and either in either header', async () => {
    const token = await aToken(rsa);
    const key = await aKey(database);
    expect(await statusOf(token)).toBe(200);
    expect(await statusOf(await aToken(ec))).toBe(200);
    expect(await statusOf(await aToken(ed))).toBe(200);
    expect(await statusOf(key)).toBe(200);
    expect((await app.post('get-tuple', READ, { 'x-agent-api-key': token })).status).toBe(200);
  });

  it.each([
    { what: 'scopes as a text', claims: { scope: 'openid read' }, get: 200, put: 403 },
    { what: 'scopes as an array', claims: { scope: ['write', 'profile'] }, get: 403, put: 200 },
    { what: 'no scopes that are known', claims: { scope: 'openid' }, get: 403, put: 403 },
    { what: 'no claim of scopes', claims: { scope: undefined }, get: 403, put: 403 },
    { what: 'a claim of scopes that is a number', claims: { scope: 1 }, get: 403, put: 403 },
    { what: 'admin', claims: { scope: 'admin' }, get: 200, put: 200 },
  ])('gives what the token says: $what', async ({ claims, get, put }) => {
    const token = await aToken(rsa, claims);
    expect([await statusOf(token), (await app.post('put', aPut(), bearer(token))).status]).toEqual([
      get,
      put,
    ]);
    // The second time it is known.
    expect(await statusOf(token)).toBe(get);
  });

  const refused: { what: string; token: () => Promise<string> | string }[] = [
    {
      what: 'without a signature (alg none)',
      token: () =>
        new UnsecuredJWT({ tenant: 'team', scope: 'admin' })
          .setIssuer(ISSUER)
          .setAudience(AUDIENCE)
          .setExpirationTime('5m')
          .encode(),
    },
    {
      what: 'signed by HS256 with the public key as its secret',
      token: async () => {
        const pem = createPublicKey({ key: (await exportJWK(rsa.publicKey)) as never, format: 'jwk' }).export(
          {
            type: 'spki',
            format: 'pem',
          },
        );
        const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
        const claims = { iss: ISSUER, aud: AUDIENCE, exp: now() + 300, tenant: 'team', scope: 'admin' };
        const text = `${part({ alg: 'HS256', kid: 'rsa' })}.${part(claims)}`;
        return `${text}.${createHmac('sha256', pem).update(text).digest('base64url')}`;
      },
    },
    {
      what: 'of an algorithm that is not asked for',
      token: async () => aToken(await aKeyPair('rsa', 'RS512')),
    },
    { what: 'signed by another key of that id', token: () => aToken(stranger) },
    { what: 'of an unknown key', token: async () => aToken({ ...stranger, kid: 'unknown' }) },
    { what: 'of another issuer', token: () => aToken(rsa, { iss: 'https://other.example' }) },
    { what: 'of no issuer', token: () => aToken(rsa, { iss: undefined }) },
    { what: 'for another audience', token: () => aToken(rsa, { aud: 'billing' }) },
    { what: 'for no audience', token: () => aToken(rsa, { aud: undefined }) },
    { what: 'that has expired', token: () => aToken(rsa, { exp: now() - 31 }) },
    { what: 'that never expires', token: () => aToken(rsa, { exp: undefined }) },
    { what: 'that is not valid yet', token: () => aToken(rsa, { nbf: now() + 60 }) },
    { what: 'of no tenant', token: () => aToken(rsa, { tenant: undefined }) },
    { what: 'of an empty tenant', token: () => aToken(rsa, { tenant: '' }) },
    { what: 'of a tenant that is a space', token: () => aToken(rsa, { tenant: ' ' }) },
    { what: 'of a tenant that is no text', token: () => aToken(rsa, { tenant: ['team'] }) },
    { what: 'of a tenant that is an empty array', token: () => aToken(rsa, { tenant: [] }) },
    { what: 'of a tenant that is null', token: () => aToken(rsa, { tenant: null }) },
    { what: 'of a tenant that is a number', token: () => aToken(rsa, { tenant: 0 }) },
    { what: 'of a tenant that is too long', token: () => aToken(rsa, { tenant: 'a'.repeat(64) }) },
    { what: 'of a tenant with a line behind it', token: () => aToken(rsa, { tenant: 'team\n' }) },
    { what: 'of a tenant with NUL', token: () => aToken(rsa, { tenant: 'team\0' }) },
    { what: 'of a tenant that cannot be', token: () => aToken(rsa, { tenant: "Team'; drop table" }) },
    {
      what: 'with claims that were exchanged',
      token: async () => {
        const [header, , signature] = (await aToken(rsa)).split('.');
        const [, payload] = (await aToken(rsa, { scope: 'admin' })).split('.');
        return `${header}.${payload}.${signature}`;
      },
    },
    {
      what: 'with a critical header that nobody knows',
      token: () => aToken(rsa, {}, { crit: [CRITICAL], [CRITICAL]: 'of another service' }),
    },
    {
      what: 'that brings its own key',
      token: async () =>
        aToken({ ...stranger, kid: 'own' }, {}, { jwk: await exportJWK(stranger.publicKey) }),
    },
    { what: 'that is none', token: () => 'a.b.c' },
    { what: 'that is half of one', token: async () => (await aToken(rsa)).slice(0, -10) },
  ];
  it.each(refused)('refuses a token $what', async ({ token }) => {
    const { status, headers, json } = await read(await token());
    expect([status, headers['www-authenticate'], json.type]).toEqual([
      401,
      'Bearer',
      '/problems/unauthorized',
    ]);
    expect(json.detail).toBe('A valid key is needed, as x-agent-api-key or as Authorization: Bearer');
  });

  it('allows for clocks that are half a minute apart', async () => {
    expect(await statusOf(await aToken(rsa, { exp: now() - 20 }))).toBe(200);
    expect(await statusOf(await aToken(rsa, { nbf: now() + 20 }))).toBe(200);
  });

  it('takes a token that is known only until its end', async () => {
    const token = await aToken(rsa, { exp: now() - 27 });
    expect(await statusOf(token)).toBe(200);
    await delay(4000);
    expect(await statusOf(token)).toBe(401);
  });

  it('acts for another tenant only with admin', async () => {
    const forB = { 'x-tenant': 'team-b' };
    const [reader, admin] = [await aToken(rsa), await aToken(rsa, { scope: 'admin' })];
    expect((await app.post('get-tuple', READ, { ...bearer(reader), ...forB })).status).toBe(403);
    expect((await app.post('get-tuple', READ, { ...bearer(admin), ...forB })).status).toBe(200);
  });

  it("takes the issuer's new keys without a restart, and goes on with those it has while it is out of order", async () => {
    const next = await aKeyPair('next');
    issuer.keys = [...issuer.keys, next];
    const token = await aToken(next);
    await until('the new key is known', async () => {
      const status = await statusOf(token);
      if (status !== 200) await delay(500);
      return status === 200;
    });
    issuer.isBroken = true;
    expect(await statusOf(await aToken(next, { sub: 'another' }))).toBe(200);
    issuer.isBroken = false;
  }, 60_000);

  it('a flood of tokens with unknown keys asks the issuer little', async () => {
    const before = issuer.asked;
    for (let n = 0; n < 100; n += 1)
      expect(await statusOf(await aToken({ ...stranger, kid: `k${n}` }))).toBe(401);
    expect(issuer.asked - before).toBeLessThan(20);
  });

  it('a token is refused as soon as its key is withdrawn', async () => {
    const gone = await aKeyPair('gone');
    issuer.keys = [...issuer.keys, gone];
    const token = await aToken(gone);
    await until('the key is known', async () => {
      await delay(250);
      return (await statusOf(token)) === 200;
    });
    issuer.keys = issuer.keys.filter((key) => key !== gone);
    // An unknown key makes the service ask again, at most every 5 s.
    await until('the token is refused', async () => {
      await delay(250);
      await statusOf(await aToken({ ...stranger, kid: 'unknown' }));
      return (await statusOf(token)) === 401;
    });
  }, 60_000);

  it('the audit log says whose token did what', async () => {
    const token = await aToken(rsa, { scope: 'delete', sub: 'cleaner' });
    expect((await app.post('delete-thread', { thread_id: 'by-token' }, bearer(token))).status).toBe(204);
    const rows = await database.sql(
      `select operation, outcome, tenant, key_id, subject, detail from audit_log where subject = 'cleaner'`,
    );
    expect(rows).toEqual([
      {
        ...{ operation: 'delete-thread', outcome: 'done', tenant: 'team', key_id: null, subject: 'cleaner' },
        detail: { thread_id: 'by-token' },
      },
    ]);
  });
});

describe('the address of the keys', () => {
  it('that is out of order is asked now and then, whatever tokens are sent', async () => {
    const key = await aKeyPair('rsa');
    const issuer = await Issuer.open(key);
    issuer.isBroken = true;
    const app = await startApp({
      ...{ AUTH_MODE: 'jwt', JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE, JWT_JWKS_URL: issuer.url },
    });
    for (let n = 0; n < 50; n += 1) {
      expect((await app.post('get-tuple', READ, bearer(await aToken(key, { sub: `${n}` })))).status).toBe(
        503,
      );
    }
    expect(issuer.asked).toBeLessThan(10);
    await app.close();
    issuer.close();
  });

  it('that cannot be reached gives 503, not 401, until it can be', async () => {
    const key = await aKeyPair('rsa');
    const issuer = await Issuer.open(key);
    issuer.isBroken = true;
    const app = await startApp({
      ...{ AUTH_MODE: 'jwt', JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE, JWT_JWKS_URL: issuer.url },
    });
    const token = await aToken(key);
    const { status, headers, json } = await app.post('get-tuple', READ, bearer(token));
    expect([status, headers['retry-after'], json.type]).toEqual([503, '1', '/problems/issuer-unavailable']);
    expect((await app.post('get-tuple', READ, {})).status).toBe(401);
    issuer.isBroken = false;
    await until(
      'the token works',
      async () => (await app.post('get-tuple', READ, bearer(token))).status === 200,
    );
    expect((await app.send('/keys/list', {}, bearer(await aToken(key, { scope: 'admin' })))).status).toBe(
      409,
    );
    await app.close();
    issuer.close();
  });
});

describe('the file of the keys, and tokens as Kubernetes makes them', () => {
  const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-jwks-'));
  const file = join(directory, 'jwks.json');
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });

  it('are taken by the namespace, with the scopes that are set, and the file is read again', async () => {
    const [key, next] = [await aKeyPair('one'), await aKeyPair('two')];
    const issuer = await Issuer.open(key);
    writeFileSync(file, await issuer.jwks());
    const app = await startApp({
      ...{ AUTH_MODE: 'jwt', JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE, JWT_JWKS_FILE: file },
      ...{ JWT_TENANT_CLAIM: '/kubernetes.io/namespace', JWT_DEFAULT_SCOPES: 'read,write' },
    });
    const ofPod = (from: IssuerKey, claims: JWTPayload = {}) =>
      aToken(from, {
        ...{
          sub: 'system:serviceaccount:agents:default',
          aud: [AUDIENCE],
          tenant: undefined,
          scope: undefined,
        },
        'kubernetes.io': {
          namespace: 'agents',
          pod: { name: 'agent-1' },
          serviceaccount: { name: 'default' },
        },
        ...claims,
      });
    const statusOf = async (operation: string, body: object, token: string) =>
      (await app.post(operation, body, bearer(token))).status;
    const token = await ofPod(key);
    expect(await statusOf('put', aPut(), token)).toBe(200);
    expect(await statusOf('delete-thread', READ, token)).toBe(403);
    expect(await statusOf('get-tuple', READ, await ofPod(key, { 'kubernetes.io': {} }))).toBe(401);
    expect(await statusOf('get-tuple', READ, await ofPod(key, { 'kubernetes.io': undefined }))).toBe(401);

    expect(await statusOf('get-tuple', READ, await ofPod(next))).toBe(401);
    issuer.keys = [next];
    writeFileSync(file, await issuer.jwks());
    await until(
      'the new key is known',
      async () => (await statusOf('get-tuple', READ, await ofPod(next))) === 200,
    );
    expect(await statusOf('get-tuple', READ, await ofPod(key))).toBe(401);
    await app.close();
    issuer.close();
  });
});
