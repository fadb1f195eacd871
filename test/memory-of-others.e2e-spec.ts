import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import zlib from 'node:zlib';
import { type TestApp, startApp } from './support/app.js';
import { aPut, base64 } from './support/builders.js';
import { aKey } from './support/keys.js';
import { until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MIB = 1024 * 1024;
const SLOW_MS = 120_000;

let app: TestApp;
const keys = new Map<string, string>();
const clients: RawClient[] = [];
afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy();
  await app.close();
});

/** The service, with two tenants: one has not been seen when the other begins. */
async function start(environment: Record<string, string>): Promise<void> {
  app = await startApp({ AUTH_MODE: 'keys', ...environment });
  for (const tenant of ['evil', 'bank']) {
    keys.set(tenant, await aKey(app.database, { tenant, scopes: ['read', 'write'] }));
  }
}

const as = (tenant: string) => ({ 'x-agent-api-key': keys.get(tenant) ?? '' });

async function open(tenant: string, operation: string, ...headers: string[]): Promise<RawClient> {
  const client = await RawClient.open(app.url);
  clients.push(client);
  const own = tenant === '' ? [] : [`X-Agent-Api-Key: ${keys.get(tenant)}`];
  return client.post(operation, ...own, ...headers);
}

function tupleOf(thread_id: string, blob: Buffer): object {
  const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(blob) }];
  return aPut({ thread_id, checkpoint: { channel_versions: { a: '1' } }, blobs });
}

/** What `inflight_bytes` says. */
async function inflightBytes(): Promise<number> {
  const { text } = await app.get('/metrics');
  return Number(/checkpoint_backend_inflight_bytes (\d+)/.exec(text)?.[1]);
}

/** Everything of the other tenant is answered, and as it was stored. */
async function bankGoesOn(times = 5): Promise<void> {
  for (let n = 0; n < times; n += 1) {
    const blob = randomBytes(n % 2 === 0 ? 1000 : 300_000);
    expect((await app.post('put', tupleOf(`bank-${n}`, blob), as('bank'))).status).toBe(200);
    const { status, json } = await app.post('get-tuple', { thread_id: `bank-${n}` }, as('bank'));
    expect(status).toBe(200);
    expect(Buffer.compare(Buffer.from(json.blobs[0].blob, 'base64'), blob)).toBe(0);
  }
}

describe('bodies that break under pressure', () => {
  /** Inflates to somewhat over 512 KB, then breaks. */
  const stored = zlib.gzipSync(Buffer.alloc(4 * MIB, ' '), { level: 0 });
  const broken = Buffer.concat([stored.subarray(0, 512 * 1024 + 9000), Buffer.alloc(40_000, 0xff)]);

  it(
    'give nobody the bytes of another tenant, and spoil nothing that is stored',
    async () => {
      // Room for some bodies of each: others wait in the middle.
      await start({ INFLIGHT_BYTES: String(4 * MIB), QUEUE_WAIT_MS: '60000' });
      const [secret, own] = [Buffer.alloc(300_000, 'secret of the bank '), Buffer.alloc(300_000, 'evil ')];
      await app.post('put', tupleOf('vault', secret), as('bank'));
      await app.post('put', tupleOf('mine', own), as('evil'));
      let isOver = false;
      let count = 0;
      const wrong: string[] = [];
      const reads = async (tenant: string, thread_id: string, expected: Buffer) => {
        while (!isOver) {
          const { status, json } = await app.post('get-tuple', { thread_id }, as(tenant));
          // A tenant's own broken bodies may keep its reads from their turn for longer than QUEUE_WAIT_MS.
          if (status === 503 && tenant === 'evil') continue;
          if (status !== 200) wrong.push(`${tenant} ${status}`);
          else if (!Buffer.from(json.blobs[0].blob, 'base64').equals(expected)) wrong.push(`${tenant} read`);
          count += 1;
        }
      };
      const acknowledged = new Map<string, Buffer>();
      const puts = async (agent: number) => {
        for (let n = 0; !isOver; n += 1) {
          const [thread_id, blob] = [`${agent}-${n}`, randomBytes(200_000 + 20_000 * (n % 20))];
          const { status } = await app.post('put', tupleOf(thread_id, blob), as('bank'));
          if (status === 200) acknowledged.set(thread_id, blob);
          else wrong.push(`put ${status}`);
        }
      };
      const breaks = async () => {
        for (let n = 0; !isOver; n += 1) {
          const gzip = ['Content-Encoding: gzip', `Content-Length: ${broken.length}`];
          const client = await open('evil', 'put', ...gzip);
          const cut = [broken.length, 400_000, 600_000, 520_000][n % 4] ?? 0;
          client.write(broken.subarray(0, cut));
          if (cut === broken.length) await Promise.race([client.closed(), delay(300)]);
          else await delay(20);
          client.socket.destroy();
        }
      };
      const agents = [
        ...[reads('bank', 'vault', secret), reads('evil', 'mine', own), puts(1), puts(2), puts(3)],
        ...[breaks(), breaks(), breaks()],
      ];
      const enough = () => (count > 100 && acknowledged.size > 40) || wrong.length > 0;
      for (const end = Date.now() + SLOW_MS / 2; !enough() && Date.now() < end;) await delay(50);
      isOver = true;
      await Promise.all(agents);
      expect(wrong).toEqual([]);
      expect(acknowledged.size).toBeGreaterThan(0);
      const rows = await app.database.sql<{ thread_id: string; blob: Buffer }>(
        'select thread_id, blob from checkpoint_blobs',
      );
      const bytes = new Map(rows.map(({ thread_id, blob }) => [thread_id.split('\u0001').at(-1), blob]));
      for (const [thread, blob] of acknowledged) expect(bytes.get(thread)?.equals(blob)).toBe(true);
    },
    SLOW_MS,
  );
});

describe('memory that one takes from the others', () => {
  const announced = (tenant: string) => open(tenant, 'put', `Content-Length: ${64 * MIB}`);

  it.each(['keys', 'none'])(
    'bodies that are announced take what has come of them, AUTH_MODE=%s',
    async (mode) => {
      await (mode === 'keys' ? start({}) : void (app = await startApp({})));
      const tenant = mode === 'keys' ? 'evil' : '';
      for (let n = 0; n < 40; n += 1) (await announced(tenant)).write('{ "a": ');
      await until('they have arrived', () => app.received() >= 40);
      expect(await inflightBytes()).toBeLessThanOrEqual(40 * 1024);
      for (let n = 0; n < 3; n += 1) {
        const put = tupleOf(`large-${n}`, randomBytes(2 * MIB));
        expect((await app.post('put', put, mode === 'keys' ? as('evil') : {})).status).toBe(200);
      }
      if (mode === 'keys') await bankGoesOn();
    },
  );

  it('a grant that is not used is taken back', async () => {
    await start({ INFLIGHT_BYTES: String(16 * MIB) });
    const client = await open('evil', 'put', `Content-Length: ${32 * MIB}`);
    client.write(Buffer.alloc(600_000, ' '));
    await until('it has a grant', async () => (await inflightBytes()) > 2 * MIB);
    await until('it has what came', async () => (await inflightBytes()) < 700_000);
    expect(await inflightBytes()).toBe(600_000);
  });

  it(
    'bodies that stop in the middle, and hold all that a tenant may, leave the others theirs, and are cut off',
    async () => {
      await start({ INFLIGHT_BYTES: String(8 * MIB), QUEUE_WAIT_MS: '8000' });
      const stuck = [];
      for (let n = 0; n < 8; n += 1) {
        stuck.push((await open('evil', 'put', `Content-Length: ${2 * MIB}`)).write(Buffer.alloc(MIB, ' ')));
      }
      await until('they hold its share', async () => (await inflightBytes()) >= 3 * MIB);
      await bankGoesOn();
      // Half of it, and the oldest body, which never waits.
      expect(await inflightBytes()).toBeLessThanOrEqual(4 * MIB + 2 * MIB + 512 * 1024);
      // Its own small ones go on, too, and a large one gets its turn when a stuck one is cut off.
      const { status } = await app.post('get-tuple', { thread_id: 'x' }, as('evil'));
      expect(status).toBe(200);
      // It may have to be sent again: other stuck ones were there before it.
      const large = tupleOf('large', randomBytes(MIB));
      await until('it is stored', async () => (await app.post('put', large, as('evil'))).status === 200);
      expect(stuck.some(({ socket }) => socket.closed || socket.readableEnded)).toBe(true);
    },
    SLOW_MS,
  );

  it(
    'answers that are not read refuse nobody: not the others, nor what its own tenant stores',
    async () => {
      await start({ INFLIGHT_BYTES: String(16 * MIB), QUEUE_WAIT_MS: '8000' });
      await app.post('put', tupleOf('big', randomBytes(7 * MIB)), as('evil'));
      // From it the service knows how large answers are.
      await app.post('get-tuple', { thread_id: 'big' }, as('evil'));
      const request = JSON.stringify({ thread_id: 'big' });
      for (let n = 0; n < 6; n += 1) {
        const client = await open('evil', 'get-tuple', `Content-Length: ${request.length}`);
        client.socket.pause();
        client.write(request);
      }
      await until('its share is full', async () => (await inflightBytes()) > 8 * MIB);
      await bankGoesOn();
      expect((await app.post('put', tupleOf('small', randomBytes(1000)), as('evil'))).status).toBe(200);
      expect(await inflightBytes()).toBeLessThan(24 * MIB);
      // What it reads has to wait, until the connections that do not move are cut off; it may have to be sent again.
      const read = () => app.post('get-tuple', { thread_id: 'small' }, as('evil'));
      await until('it is read', async () => (await read()).status === 200);
    },
    SLOW_MS,
  );

  // Nothing is merged then, so that all that begin together run at once.
  const unmerged = { INFLIGHT_BYTES: String(16 * MIB), DATABASE_PREPARED: 'false', FAST_PATH: 'true' };

  it(
    'answers that are not read keep to it also when nothing is known yet of how large they are',
    async () => {
      await start({ ...unmerged, STALL_TIMEOUT_MS: '3000' });
      for (let n = 0; n < 8; n += 1)
        await app.post('put', tupleOf(`big-${n}`, randomBytes(7 * MIB)), as('evil'));
      const opened = Array.from({ length: 8 }, async (_, n) => {
        const request = JSON.stringify({ thread_id: `big-${n}` });
        const client = await open('evil', 'get-tuple', `Content-Length: ${request.length}`);
        client.socket.pause();
        return () => client.write(request);
      });
      for (const begin of await Promise.all(opened)) begin();
      let most = 0;
      const endAt = performance.now() + 2000;
      while (performance.now() < endAt) {
        most = Math.max(most, await inflightBytes());
        await delay(10);
      }
      // Two answers fill the share of a tenant; one more as rows beside them.
      expect(most).toBeGreaterThan(8 * MIB);
      expect(most).toBeLessThan(36 * MIB);
      await bankGoesOn();
    },
    SLOW_MS,
  );

  it(
    'large reads that begin together keep to it, before anything is known of how large they are',
    async () => {
      await start({ ...unmerged, QUEUE_WAIT_MS: '60000' });
      const blobs = Array.from({ length: 8 }, () => randomBytes(7 * MIB));
      for (const [n, blob] of blobs.entries()) await app.post('put', tupleOf(`big-${n}`, blob), as('bank'));
      const read = async (blob: Buffer, n: number) => {
        const { status, json } = await app.post('get-tuple', { thread_id: `big-${n}` }, as('bank'));
        expect(status).toBe(200);
        expect(Buffer.compare(Buffer.from(json.blobs[0].blob, 'base64'), blob)).toBe(0);
      };
      const reads = { areOver: false };
      const over = Promise.all(blobs.map(read)).finally(() => (reads.areOver = true));
      let most = 0;
      while (!reads.areOver) {
        most = Math.max(most, await inflightBytes());
        await delay(10);
      }
      await over;
      // And one more, as rows and as an answer, beside it; all of them take 56 MiB, and 75 as answers.
      expect(most).toBeGreaterThan(8 * MIB);
      expect(most).toBeLessThan(36 * MIB);
    },
    SLOW_MS,
  );

  it('a read does not wait for a slow statement because an answer was large a while ago', async () => {
    await start({ AUTH_MODE: 'none', INFLIGHT_BYTES: String(4 * MIB), QUEUE_WAIT_MS: '60000' });
    await app.post('put', tupleOf('large', randomBytes(3 * MIB)));
    const metadata = { a: Array.from({ length: 90_000 }, () => [1]) };
    await app.post('put', aPut({ thread_id: 'slow', metadata }));
    await app.database.sql(`
      insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
      select thread_id, checkpoint_ns, n, checkpoint, metadata
        from checkpoints, generate_series(1, 500) as n
       where thread_id = 'slow'`);
    const slow = app.post('list', { thread_id: 'slow', filter_metadata: { a: [[2], [3], [4], [5]] } });
    await delay(500);
    await app.post('get-tuple', { thread_id: 'large' });
    const read = app.post('get-tuple', { thread_id: 'large' }).then(({ status }) => status);
    const { status } = await Promise.race([slow, read.then((other) => ({ status: `the read: ${other}` }))]);
    expect(status).toBe('the read: 200');
    await slow;
  });

  it.each([
    { what: 'a body', isSlow: true },
    { what: 'a body that is fast enough', isSlow: false },
  ])('$what over 64 KiB moves at MIN_BYTES_PER_SECOND, or is cut off', async ({ isSlow }) => {
    await start({ STALL_TIMEOUT_MS: '1000', MIN_BYTES_PER_SECOND: '20000' });
    const body = Buffer.from(JSON.stringify(tupleOf('t', randomBytes(200_000))));
    const client = await open('evil', 'put', `Content-Length: ${body.length}`);
    let at = 100_000;
    client.write(body.subarray(0, at));
    while (at < body.length && !client.socket.closed) {
      await delay(100);
      const step = isSlow ? 500 : 8000;
      client.write(body.subarray(at, at + step));
      at += step;
    }
    if (isSlow) expect(at).toBeLessThan(body.length);
    else expect(await client.status()).toBe(200);
  });
});
