import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aThread, base64 } from './support/builders.js';
import { until } from './support/process.js';
import { RawClient } from './support/raw-client.js';

const MIB = 1024 * 1024;

let app: TestApp;
const clients: RawClient[] = [];
afterEach(async () => {
  for (const { socket } of clients.splice(0)) socket.destroy();
  await app.close();
});

async function open(): Promise<RawClient> {
  const client = await RawClient.open(app.url);
  clients.push(client);
  return client;
}

function aBody(bytes: number, thread_id = aThread()): Buffer {
  const blobs = [{ channel: 'a', version: '1', type: 't', blob: base64(Buffer.alloc(bytes, 7)) }];
  return Buffer.from(
    JSON.stringify(aPut({ thread_id, checkpoint: { channel_versions: { a: '1' } }, blobs })),
  );
}

/** Sends the head of a put and all but the last bytes of its body, and returns what sends these. */
async function begin(body: Buffer, ...headers: string[]): Promise<{ client: RawClient; finish: () => void }> {
  const client = await open();
  client.post('put', `Content-Length: ${body.length}`, ...headers).write(body.subarray(0, -10));
  return { client, finish: () => void client.write(body.subarray(-10)) };
}

/** What `inflight_bytes` says. */
async function inflightBytes(): Promise<number> {
  const { text } = await app.get('/metrics');
  return Number(/checkpoint_backend_inflight_bytes (\d+)/.exec(text)?.[1]);
}

const isAnswered = async () => {
  expect((await app.post('list', {})).status).toBe(200);
};

describe('a client that is slow', () => {
  it.each([
    ['says nothing', ''],
    ['does not end its headers', 'POST /checkpoints/put HTTP/1.1\r\nHost: t\r\n'],
  ])('is cut off when it %s', async (_, text) => {
    app = await startApp({ HEADERS_TIMEOUT_MS: '300' });
    const client = (await open()).write(text);
    await isAnswered();
    expect(await client.closed()).toMatch(/^HTTP\/1.1 408 /);
  });

  it('is cut off when its body takes longer than BODY_TIMEOUT_MS, however steadily it comes', async () => {
    app = await startApp({ BODY_TIMEOUT_MS: '500' });
    const client = (await open()).post('put', 'Content-Length: 1000000');
    const trickle = setInterval(() => client.write(' '), 20);
    await isAnswered();
    await client.closed();
    clearInterval(trickle);
    expect(client.answer).toMatch(/^HTTP\/1.1 408 /);
  });

  it.each([
    ['Content-Length: 1000', '{'],
    ['Content-Length: 1000000', '{'],
    ['Transfer-Encoding: chunked', '1\r\n{\r\n'],
    ['Content-Encoding: gzip\r\nContent-Length: 1000', '\x1f\x8b'],
  ])('is cut off when its body stops (%j)', async (header, part) => {
    app = await startApp({ STALL_TIMEOUT_MS: '300' });
    const client = (await open()).post('put', header).write(Buffer.from(part, 'latin1'));
    await isAnswered();
    expect(await client.closed()).toBe('');
  });

  it('is not cut off as long as its body gets on', async () => {
    app = await startApp({ STALL_TIMEOUT_MS: '1500' });
    const body = aBody(1000);
    const client = (await open()).post('put', `Content-Length: ${body.length}`);
    for (let at = 0; at < body.length; at += 250) {
      client.write(body.subarray(at, at + 250));
      await delay(700);
    }
    expect(await client.status()).toBe(200);
  });

  it('is cut off when it does not read its answer, which others then no longer wait for', async () => {
    app = await startApp({ STALL_TIMEOUT_MS: '300', INFLIGHT_BYTES: String(MIB) });
    const thread_id = aThread();
    expect((await app.post('put', aBody(24 * MIB, thread_id).toString())).status).toBe(200);
    const client = await open();
    client.socket.pause();
    const request = JSON.stringify({ thread_id });
    client.post('get-tuple', `Content-Length: ${request.length}`).write(request);
    await until('the answer is in flight', async () => (await inflightBytes()) > 24 * MIB);
    const other = app.post('get-tuple', { thread_id });
    expect((await app.post('put', aBody(MIB).toString())).status).toBe(200);
    await until('the answer is gone', async () => (await inflightBytes()) < 24 * MIB || client.socket.closed);
    expect((await other).status).toBe(200);
    client.socket.resume();
    const answer = await client.closed();
    const [, length] = /Content-Length: (\d+)/.exec(answer) ?? [];
    expect(Number(length)).toBeGreaterThan(24 * MIB);
    expect(answer.length).toBeLessThan(24 * MIB);
  });

  it('gets 431 for headers over 16 KiB', async () => {
    app = await startApp();
    const client = (await open()).post('put', `X-Large: ${'x'.repeat(20_000)}`);
    expect(await client.status()).toBe(431);
    await isAnswered();
  });
});

describe('a client that went away', () => {
  it('costs no statement when its request has not been begun', async () => {
    app = await startApp({ DATABASE_POOL_MAX: '1' });
    const put = (thread_id: string) => app.post('put', aPut({ thread_id }));
    await app.database.sql('begin');
    await app.database.sql('lock table checkpoints');
    const first = put('first');
    while (app.received() < 1) await delay(5);
    const body = JSON.stringify(aPut({ thread_id: 'gone' }));
    const client = (await open()).post('put', `Content-Length: ${body.length}`).write(body);
    while (app.received() < 2) await delay(5);
    await delay(100);
    client.socket.destroy();
    await delay(100);
    const last = put('last');
    await app.database.sql('rollback');
    expect([(await first).status, (await last).status]).toEqual([200, 200]);
    const stored = await app.database.sql<{ thread_id: string }>('select thread_id from checkpoints');
    expect(stored.map(({ thread_id }) => thread_id).sort()).toEqual(['first', 'last']);
  });
});

describe('over INFLIGHT_BYTES', () => {
  it('bodies wait in their order, unread', async () => {
    app = await startApp({ INFLIGHT_BYTES: String(MIB) });
    const first = await begin(aBody(MIB));
    while (app.received() < 1) await delay(5);
    const second = await open();
    const large = aBody(24 * MIB);
    second.post('put', `Content-Length: ${large.length}`).write(large);
    while (app.received() < 2) await delay(5);
    let answered = false;
    const third = app.post('put', aBody(MIB / 8).toString()).then((answer) => {
      answered = true;
      return answer.status;
    });
    await delay(300);
    expect(answered).toBe(false);
    // Small ones do not wait for large ones.
    await isAnswered();
    // What the kernel buffers is sent, the rest is not.
    expect(second.socket.writableLength).toBeGreaterThan(large.length / 2);
    first.finish();
    expect(await Promise.all([first.client.status(), second.status(), third])).toEqual([200, 200, 200]);
  });

  it.each([
    { what: 'of unknown length', headers: ['Transfer-Encoding: chunked'], encode: chunked },
    { what: 'that is compressed', headers: ['Content-Encoding: gzip'], encode: gzipSync },
  ])(
    'a body $what counts as it grows, and gets through when it is the oldest',
    async ({ headers, encode }) => {
      app = await startApp({ INFLIGHT_BYTES: String(MIB) });
      const body = encode(aBody(4 * MIB));
      const client = await open();
      const length = headers[0]?.startsWith('Transfer') ? [] : [`Content-Length: ${body.length}`];
      client.post('put', ...headers, ...length).write(body.subarray(0, -20));
      while (app.received() < 1) await delay(5);
      await delay(500);
      let answered = false;
      const other = app.post('put', aBody(MIB / 2).toString()).then((answer) => {
        answered = true;
        return answer.status;
      });
      await delay(300);
      expect(answered).toBe(false);
      client.write(body.subarray(-20));
      expect(await Promise.all([client.status(), other])).toEqual([200, 200]);
    },
  );

  it('two bodies that grow at once get through, one after the other', async () => {
    app = await startApp({ INFLIGHT_BYTES: String(MIB) });
    const body = chunked(aBody(3 * MIB));
    const both = [await open(), await open()];
    for (const client of both) client.post('put', 'Transfer-Encoding: chunked');
    const half = body.length / 2;
    for (const client of both) client.write(body.subarray(0, half));
    await delay(200);
    for (const client of both.reverse()) client.write(body.subarray(half));
    expect(await Promise.all(both.map((client) => client.status()))).toEqual([200, 200]);
  });

  it('no more than QUEUE_MAX wait, each for QUEUE_WAIT_MS', async () => {
    const settings = { INFLIGHT_BYTES: String(MIB), QUEUE_MAX: '1', QUEUE_WAIT_MS: '3000' };
    app = await startApp({ ...settings, MIN_BYTES_PER_SECOND: '0' });
    const body = aBody(MIB);
    let at = body.length - 100;
    const client = (await open()).post('put', `Content-Length: ${body.length}`).write(body.subarray(0, at));
    await until('it has arrived', async () => (await inflightBytes()) >= at);
    const trickle = setInterval(() => client.write(body.subarray(at, (at += 1))), 200);
    const waiting = await open();
    waiting.post('put', `Content-Length: ${body.length}`).write(body);
    await until('it is begun', () => app.received() >= 2);
    await delay(500); // so that it waits
    const refused = await app.post('put', aBody(MIB / 8).toString());
    expect(refused).toMatchObject({ status: 503, json: { type: '/problems/queue-full' } });
    expect(refused.headers['retry-after']).toBe('1');
    await isAnswered();
    expect(await waiting.status()).toBe(503);
    expect(waiting.answer).toContain('/problems/queue-timeout');
    clearInterval(trickle);
    client.write(body.subarray(at));
    expect(await client.status()).toBe(200);
    await isAnswered();
  });

  it('a body that has come whole before there is memory for it is read whole', async () => {
    app = await startApp({ INFLIGHT_BYTES: String(MIB) });
    // All of the memory, and all of that for small ones.
    const stuck = [];
    for (const bytes of [MIB, 47_000, 47_000, 3700]) {
      const body = aBody(bytes);
      const client = (await open()).post('put', `Content-Length: ${body.length}`).write(body.subarray(0, -1));
      stuck.push({ client, finish: () => client.write(body.subarray(-1)) });
      await until('it has arrived', () => app.received() >= stuck.length);
      await delay(100);
    }
    const body = aBody(45_000);
    const whole = (await open()).post('put', `Content-Length: ${body.length}`).write(body);
    await until('it has arrived', () => app.received() > stuck.length);
    await delay(100);
    for (const { client, finish } of stuck.reverse()) {
      finish();
      expect(await client.status()).toBe(200);
    }
    expect(await whole.status()).toBe(200);
  });

  it('the client is not cut off for what holds the service up', async () => {
    app = await startApp({ STALL_TIMEOUT_MS: '1500' });
    const body = aBody(MIB);
    const client = (await open()).post('put', `Content-Length: ${body.length}`).write(body.subarray(0, -1));
    await until('it has arrived', async () => (await inflightBytes()) >= body.length - 1);
    await delay(600); // for a look at its pace
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500);
    client.write(body.subarray(-1));
    expect(await client.status()).toBe(200);
  });

  it('one that goes away while it waits, or is cut off in its body, makes room', async () => {
    app = await startApp({ INFLIGHT_BYTES: String(MIB) });
    const first = await begin(aBody(MIB));
    while (app.received() < 1) await delay(5);
    const second = await begin(aBody(2 * MIB));
    while (app.received() < 2) await delay(5);
    const third = app.post('put', aBody(MIB / 2).toString());
    await delay(100);
    second.client.socket.destroy();
    first.client.socket.destroy();
    expect((await third).status).toBe(200);
  });
});

function chunked(body: Buffer): Buffer {
  const chunks: Buffer[] = [];
  for (let at = 0; at < body.length; at += 50_000) {
    const chunk = body.subarray(at, at + 50_000);
    chunks.push(Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from('\r\n'));
  }
  return Buffer.concat([...chunks, Buffer.from('0\r\n\r\n')]);
}
