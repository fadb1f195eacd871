import { randomBytes } from 'node:crypto';
import http from 'node:http';
import net, { type AddressInfo, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import diagnostics from 'node:diagnostics_channel';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { AnswerReader } from '../../../clients/typescript/src/sending/http1.js';

const MAX_HEAD_BYTES = 16_384;

interface Read {
  status: number;
  body: string;
  headers: Record<string, string>;
  isReusable: boolean;
}

/** What the reader makes of the bytes, in pieces of that size. Throws what it throws, and when the answer is not whole at the end. */
function read(bytes: Buffer, pieceBytes: number): Read {
  const reader = new AnswerReader(MAX_HEAD_BYTES);
  for (let at = 0; at < bytes.length && !reader.isWhole; at += pieceBytes)
    reader.feed(bytes.subarray(at, at + pieceBytes));
  if (!reader.isWhole && !reader.end()) throw new Error('not whole');
  const { status, body, headers, isReusable } = reader;
  return { status, body: body.toString('latin1'), headers: Object.fromEntries(headers), isReusable };
}

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

/** A server of bytes on a free port. */
async function aServer(onConnection: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** What Node's own client makes of the bytes. */
async function readByNode(bytes: Buffer): Promise<Omit<Read, 'isReusable'>> {
  const url = await aServer((socket) => socket.once('data', () => socket.end(bytes)));
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: 'POST', agent: false }, (answer) => {
      void buffer(answer).then((body) => {
        const headers = answer.headers as Record<string, string>;
        resolve({ status: answer.statusCode ?? 0, body: body.toString('latin1'), headers });
      }, reject);
    });
    request.on('error', reject);
    request.end();
  });
}

const HEAD = 'HTTP/1.1 200 OK\r\n';
const CHUNKED = `${HEAD}transfer-encoding: chunked\r\n\r\n`;

describe('an answer', () => {
  it.each<[what: string, answer: string, expected: { body: string; isReusable: boolean }]>([
    ['with a length', `${HEAD}Content-Length: 3\r\n\r\nabc`, { body: 'abc', isReusable: true }],
    ['that is empty', `${HEAD}content-length:0\r\n\r\n`, { body: '', isReusable: true }],
    ['204', 'HTTP/1.1 204 No Content\r\nx-request-id: r\r\n\r\n', { body: '', isReusable: true }],
    [
      '304 with the length of another',
      'HTTP/1.1 304 \r\ncontent-length: 9\r\n\r\n',
      { body: '', isReusable: true },
    ],
    ['without a reason', 'HTTP/1.1 500\r\ncontent-length: 1\r\n\r\nx', { body: 'x', isReusable: true }],
    [
      'in chunks',
      `${CHUNKED}3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n`,
      { body: 'abc0123456789', isReusable: true },
    ],
    [
      'in chunks with extensions',
      `${CHUNKED}3;a=b\r\na\r\n\r\n00\r\n\r\n`,
      { body: 'a\r\n', isReusable: true },
    ],
    ['with trailers', `${CHUNKED}1\r\na\r\n0\r\nx: y\r\nz: w\r\n\r\n`, { body: 'a', isReusable: true }],
    ['until the connection ends', `${HEAD}\r\nabc`, { body: 'abc', isReusable: false }],
    [
      'behind interim ones',
      `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n${HEAD}content-length: 1\r\n\r\na`,
      { body: 'a', isReusable: true },
    ],
    ['of HTTP/1.0', 'HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na', { body: 'a', isReusable: false }],
    [
      'on the last connection',
      `${HEAD}content-length: 1\r\nconnection: x, Close\r\n\r\na`,
      { body: 'a', isReusable: false },
    ],
    [
      'with headers of Latin 1, and one twice',
      `${HEAD}x-a: \t\xe4 b \r\nx-a: c\r\nx-b:\r\ncontent-length: 1\r\n\r\na`,
      { body: 'a', isReusable: true },
    ],
  ])('is what Node reads, however it is cut: %s', async (_what, answer, expected) => {
    const bytes = Buffer.from(answer, 'latin1');
    const whole = read(bytes, bytes.length);
    expect(whole).toMatchObject(expected);
    for (const pieceBytes of [1, 2, 3, 7]) expect(read(bytes, pieceBytes)).toEqual(whole);
    expect(whole).toMatchObject(await readByNode(bytes));
  });

  it.each<[what: string, answer: string]>([
    ['two framings', `${HEAD}content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`],
    ['another coding', `${HEAD}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n`],
    ['two codings', `${HEAD}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`],
    ['two lengths', `${HEAD}content-length: 3\r\ncontent-length: 4\r\n\r\nabcd`],
    ['a length with a sign', `${HEAD}content-length: +3\r\n\r\nabc`],
    ['an empty length', `${HEAD}content-length:\r\n\r\nabc`],
    ['a length beyond numbers', `${HEAD}content-length: ${'9'.repeat(20)}\r\n\r\nabc`],
    ['a chunk with another size', `${CHUNKED}2\r\nabc\r\n0\r\n\r\n`],
    ['a chunk with a size of letters', `${CHUNKED}0x2\r\nab\r\n0\r\n\r\n`],
    ['a chunk without a size', `${CHUNKED}\r\nab\r\n0\r\n\r\n`],
    ['chunks that end with a line feed', `${CHUNKED}2\nab\n0\n\n`],
    ['lines that end with a line feed', 'HTTP/1.1 200 OK\ncontent-length: 1\n\na'],
    ['a carriage return in a header', `${HEAD}x: a\rb\r\ncontent-length: 1\r\n\r\na`],
    ['NUL in a header', `${HEAD}x: a\0b\r\ncontent-length: 1\r\n\r\na`],
    ['a folded header', `${HEAD}x: a\r\n b\r\ncontent-length: 1\r\n\r\na`],
    ['a space before the colon', `${HEAD}content-length : 1\r\n\r\na`],
    ['a line without a colon', `${HEAD}content-length\r\n\r\na`],
    ['a header without a name', `${HEAD}: 1\r\n\r\na`],
    ['another protocol', 'HTTP/2.0 200 OK\r\n\r\n'],
    ['a version beyond', 'HTTP/1.2 200 OK\r\n\r\n'],
    ['a status of two digits', 'HTTP/1.1 99 OK\r\n\r\n'],
    ['a status of six hundred', 'HTTP/1.1 600 OK\r\n\r\n'],
    ['another protocol of lines', '220 mail ready\r\n'],
    ['bytes of TLS', '\x15\x03\x01\0\x02\x02\x50'],
    ['what nobody asked for', 'HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n'],
    ['headers without end', HEAD + 'x: y\r\n'.repeat(3000)],
    ['headers that are too long', `${HEAD}x: ${'y'.repeat(MAX_HEAD_BYTES)}\r\n\r\n`],
    ['trailers that are too long', `${CHUNKED}0\r\n${'x: y\r\n'.repeat(5000)}\r\n`],
    ['a size of a chunk without end', `${CHUNKED}1;${'x'.repeat(20_000)}`],
  ])('is refused with %s', (_what, answer) => {
    const bytes = Buffer.from(answer, 'latin1');
    const refusal = expect.objectContaining({ code: 'ERR_NOT_HTTP' }) as Error;
    for (const pieceBytes of [bytes.length, 1]) expect(() => read(bytes, pieceBytes)).toThrow(refusal);
  });

  it.each([
    ['its head', `${HEAD}content-length: 3\r\n`],
    ['its body', `${HEAD}content-length: 3\r\n\r\nab`],
    ['a chunk', `${CHUNKED}3\r\nab`],
    ['its chunks', `${CHUNKED}2\r\nab\r\n`],
    ['its trailers', `${CHUNKED}0\r\nx: y\r\n`],
  ])('is not whole when the connection ends in %s', (_what, answer) => {
    expect(() => read(Buffer.from(answer), 5)).toThrow('not whole');
  });

  it('leaves a connection with more bytes to nobody', () => {
    const bytes = Buffer.from(`${HEAD}content-length: 1\r\n\r\na${HEAD}content-length: 1\r\n\r\nb`);
    expect(read(bytes, bytes.length)).toMatchObject({ body: 'a', isReusable: false });
  });
});

const READ = { configurable: { thread_id: 'thread-1' } };
const FINE = `${HEAD}content-length: 4\r\n\r\nnull`;
const quiet = { backoffMs: 1, onRetry: () => undefined };

/** A server that answers each request by the next of the steps, the last one again and again. */
async function answering(...steps: ((socket: Socket) => void)[]) {
  const sockets: Socket[] = [];
  const url = await aServer((socket) => {
    socket.on('data', (data) => {
      // Short requests come in one piece.
      if (!data.includes('POST ')) return;
      sockets.push(socket);
      steps[Math.min(sockets.length, steps.length) - 1]!(socket);
    });
  });
  return { url, sockets };
}

const says = (answer: string) => (socket: Socket) => void socket.write(answer);

describe('a connection', () => {
  it.each([
    ['an answer that breaks off', (socket: Socket) => void socket.end(`${HEAD}content-length: 9\r\n\r\nnu`)],
    ['an end without an answer', (socket: Socket) => void socket.end()],
    ['what is no HTTP', says('220 ready\r\n')],
    ['an answer with two lengths', says(`${HEAD}content-length: 4\r\ncontent-length: 5\r\n\r\nnull`)],
  ])('is closed after %s, and the request goes over another', async (_what, step) => {
    const { url, sockets } = await answering(says(FINE), step, says(FINE));
    const saver = new HttpCheckpointSaver({ baseUrl: url, ...quiet });
    await saver.getTuple(READ);
    await saver.getTuple(READ);
    expect(sockets).toHaveLength(3);
    expect(sockets.map((socket) => socket === sockets[0])).toEqual([true, true, false]);
    expect(sockets[0]!.destroyed || sockets[0]!.readableEnded).toBe(true);
  });

  it.each([
    ['behind an answer', FINE + FINE],
    ['on its last connection', `${HEAD}connection: close\r\ncontent-length: 4\r\n\r\nnull`],
    ['until it ends', undefined],
  ])('is not used again: %s', async (_what, answer) => {
    const step = answer === undefined ? (socket: Socket) => void socket.end(`${HEAD}\r\nnull`) : says(answer);
    const { url, sockets } = await answering(step);
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    for (let n = 0; n < 3; n++) expect(await saver.getTuple(READ)).toBeUndefined();
    expect([sockets.length, new Set(sockets).size]).toEqual([3, 3]);
  });

  it('that was asked to close is not used again, whatever the other side says', async () => {
    const { url, sockets } = await answering(says(FINE));
    const saver = new HttpCheckpointSaver({ baseUrl: url, headers: { connection: 'close' } });
    for (let n = 0; n < 2; n++) await saver.getTuple(READ);
    expect(new Set(sockets).size).toBe(2);
  });

  it('that says something unasked is closed', async () => {
    const { url, sockets } = await answering(says(FINE));
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    await saver.getTuple(READ);
    const closed = new Promise((resolve) => sockets[0]!.once('close', resolve));
    sockets[0]!.write(`${HEAD}content-length: 2\r\n\r\n[]`);
    await closed;
    expect(await saver.getTuple(READ)).toBeUndefined();
    expect(sockets[0] === sockets[1]).toBe(false);
  });

  it('that answers before it has read the request is not used again', async () => {
    const refusal = 'HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\n{}';
    const { url, sockets } = await answering((socket) => {
      socket.pause();
      socket.write(refusal);
    });
    const saver = new HttpCheckpointSaver({ baseUrl: url, deadlineMs: 5000 });
    const config = { configurable: { thread_id: 't', checkpoint_id: 'c' } };
    const store = saver.putWrites(config, [['a', randomBytes(10_000_000).toString('hex')]], 'task');
    await expect(store).rejects.toMatchObject({ status: 413 });
    await expect(saver.getTuple(READ)).rejects.toMatchObject({ status: 413 });
    expect(new Set(sockets).size).toBe(2);
  });

  it('tells by its own length where a request ends, whatever the headers say', async () => {
    const seen: string[] = [];
    const server = http.createServer((request, response) => {
      void buffer(request).then((body) => {
        seen.push(
          `${request.headers['content-length']} ${body.length} ${request.headers['transfer-encoding']}`,
        );
        response.end('null');
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closers.push(() => {
      server.close();
      server.closeAllConnections();
    });
    const headers = { 'Content-Length': '3', 'Transfer-Encoding': 'chunked', Expect: '100-continue' };
    const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await new HttpCheckpointSaver({ baseUrl, headers }).getTuple(READ);
    expect(seen).toEqual([expect.stringMatching(/^(\d+) \1 undefined$/)]);
  });
});

const { request: ownRequest } = http;
afterEach(() => {
  http.request = ownRequest;
});

describe('requests go by node:http', () => {
  let sent = 0;
  const replaced = ((...some: Parameters<typeof ownRequest>) => {
    sent += 1;
    return ownRequest(...some);
  }) as typeof ownRequest;
  beforeEach(() => (sent = 0));

  it('as long as somebody has replaced its request', async () => {
    const { url } = await answering(says(FINE));
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    await saver.getTuple(READ);
    expect(sent).toBe(0);
    http.request = replaced;
    await saver.getTuple(READ);
    expect(sent).toBe(1);
    http.request = new Proxy(ownRequest, { apply: (_target, _self, some) => replaced(...(some as [never])) });
    await saver.getTuple(READ);
    expect(sent).toBe(2);
    http.request = ownRequest;
    await saver.getTuple(READ);
    expect(sent).toBe(2);
  });

  it('as long as a tracer listens to its channels', async () => {
    const { url } = await answering(says(FINE));
    const saver = new HttpCheckpointSaver({ baseUrl: url });
    let heard = 0;
    const listener = () => (heard += 1);
    diagnostics.subscribe('http.client.request.start', listener);
    try {
      await saver.getTuple(READ);
    } finally {
      diagnostics.unsubscribe('http.client.request.start', listener);
    }
    await saver.getTuple(READ);
    expect(heard).toBe(1);
  });
});

describe.each([
  ['over own connections', false],
  ['by node:http', true],
])('%s', (_name, isByNode) => {
  it('the attempt after one without an answer opens a connection, whatever else is kept', async () => {
    if (isByNode) http.request = ((...some: Parameters<typeof ownRequest>) => ownRequest(...some)) as never;
    const dead = new Set<Socket>();
    const waiting: (() => void)[] = [];
    const { url, sockets } = await answering((socket) => {
      if (dead.has(socket)) return;
      waiting.push(() => void socket.write(FINE));
      // All at once at first, so that each has a connection of its own.
      if (dead.size > 0 || waiting.length === 4) for (const answer of waiting.splice(0)) answer();
    });
    const saver = new HttpCheckpointSaver({ baseUrl: url, timeoutMs: 300, ...quiet });
    await Promise.all(Array.from({ length: 4 }, () => saver.getTuple(READ)));
    for (const socket of sockets) dead.add(socket);
    expect(dead.size).toBe(4);
    // The way to the service has forgotten the connections, and tells nobody.
    expect(await saver.getTuple(READ)).toBeUndefined();
    expect(sockets.slice(4).map((socket) => dead.has(socket))).toEqual([true, false]);
  });
});
