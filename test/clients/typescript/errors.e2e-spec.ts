import http from 'node:http';
import https from 'node:https';
import net, { type AddressInfo } from 'node:net';
import { jest } from '@jest/globals';
import {
  CheckpointHttpError,
  HttpCheckpointSaver,
  type HttpCheckpointSaverOptions,
} from '../../../clients/typescript/src/index.js';
import { Authority } from '../../support/certificates.js';

const READ = { configurable: { thread_id: 'thread-1' } };
const WAYS: [string, typeof fetch | undefined][] = [
  ['Node', undefined],
  ['fetch', fetch],
];

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
  jest.restoreAllMocks();
});

async function listening(server: net.Server, port = 0): Promise<number> {
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  closers.push(() => {
    server.close();
    if (server instanceof http.Server || server instanceof https.Server) server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}

/** A port of this machine where nobody listens. */
async function aFreePort(): Promise<number> {
  const server = net.createServer();
  const port = await listening(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

type Step = { status: number; body?: string; headers?: Record<string, string> } | 'hang';

/** Answers by the steps, the last one again and again. */
async function aServer(...steps: Step[]): Promise<{ url: string; received: () => number }> {
  let received = 0;
  const server = http.createServer((request, response) => {
    const step = steps[Math.min(received++, steps.length - 1)]!;
    request.resume().on('end', () => {
      if (step !== 'hang') response.writeHead(step.status, step.headers).end(step.body ?? 'null');
    });
  });
  return { url: `http://127.0.0.1:${await listening(server)}`, received: () => received };
}

async function failureOf(options: HttpCheckpointSaverOptions): Promise<CheckpointHttpError> {
  const error: unknown = await new HttpCheckpointSaver({ onRetry: () => undefined, ...options })
    .getTuple(READ)
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  expect(error).toBeInstanceOf(CheckpointHttpError);
  return error as CheckpointHttpError;
}

describe.each(WAYS)('an address that never answered, by %s', (_name, fetch) => {
  const soon = { fetch, firstAnswerMs: 2000, deadlineMs: 60_000, backoffMs: 20 };

  it('fails sooner, and is named, when it refuses connections', async () => {
    const baseUrl = `http://127.0.0.1:${await aFreePort()}`;
    const began = Date.now();
    const error = await failureOf({ ...soon, baseUrl });
    expect(Date.now() - began).toBeLessThan(30_000);
    expect(error).toMatchObject({ limit: 'firstAnswerMs', status: undefined, isRetryable: true });
    expect(error.attempts).toBeGreaterThan(1);
    expect(error.elapsedMs).toBeLessThanOrEqual(30_000);
    expect(error.message).toMatch(
      new RegExp(
        `^get-tuple of thread "thread-1" failed after ${error.attempts} attempts: no answer from ${baseUrl}: .*ECONNREFUSED.*` +
          `; tried for \\d+\\.\\d s, see firstAnswerMs. Check that the service runs, and baseUrl \\(request \\S+\\)$`,
      ),
    );
  });

  it('fails sooner when nobody knows its name', async () => {
    const error = await failureOf({ ...soon, baseUrl: 'http://checkpoints.invalid:5003' });
    expect(error.limit).toBe('firstAnswerMs');
    expect(error.message).toMatch(
      /no answer from http:\/\/checkpoints\.invalid:5003: .*(ENOTFOUND|EAI_AGAIN).*Check the host name/,
    );
  });

  it('fails sooner when it has no TLS', async () => {
    const port = await listening(http.createServer((_request, response) => response.end()));
    const error = await failureOf({ ...soon, baseUrl: `https://127.0.0.1:${port}` });
    expect(error.limit).toBe('firstAnswerMs');
    expect(error.message).toMatch(
      new RegExp(`no answer from https://127.0.0.1:${port}: .*begin baseUrl with http:`),
    );
  });

  it('fails sooner when it speaks something else than HTTP', async () => {
    const port = await listening(
      net.createServer((socket) => socket.on('error', () => undefined).end('220 mail ready\r\n')),
    );
    const error = await failureOf({ ...soon, baseUrl: `http://127.0.0.1:${port}` });
    expect(error.limit).toBe('firstAnswerMs');
    expect(error.message).toMatch(
      new RegExp(`no answer from http://127.0.0.1:${port}: .*begin baseUrl with https:`),
    );
  });

  it('fails at once when its certificate is of nobody whom this process trusts', async () => {
    const authority = new Authority();
    try {
      const port = await listening(https.createServer(authority.issue('IP:127.0.0.1')));
      const error = await failureOf({ ...soon, baseUrl: `https://127.0.0.1:${port}` });
      expect(error).toMatchObject({ attempts: 1, isRetryable: false, limit: undefined });
      expect(error.message).toMatch(/UNABLE_TO_VERIFY_LEAF_SIGNATURE.*NODE_EXTRA_CA_CERTS/);
    } finally {
      authority.remove();
    }
  });
});

it('an address of several, all refused, names each', async () => {
  const error = await failureOf({ baseUrl: `http://localhost:${await aFreePort()}`, firstAnswerMs: 50 });
  expect(error.message).toMatch(
    /no answer from http:\/\/localhost:\d+: connect ECONNREFUSED (127\.0\.0\.1|::1):\d+/,
  );
});

it('an address that has answered is tried until the deadline, by other savers too', async () => {
  const server = http.createServer((_request, response) => response.end('null'));
  const port = await listening(server);
  const baseUrl = `http://127.0.0.1:${port}`;
  await new HttpCheckpointSaver({ baseUrl }).getTuple(READ);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  const options = { baseUrl, firstAnswerMs: 10, deadlineMs: 600, maxBackoffMs: 50 };
  const error = await failureOf(options);
  expect(error.limit).toBe('deadlineMs');
  expect(error.elapsedMs).toBeGreaterThan(300);
  expect(error.message).toContain('ECONNREFUSED');
  // It comes back in time.
  const saver = new HttpCheckpointSaver({ ...options, deadlineMs: 30_000, onRetry: () => undefined });
  const read = saver.getTuple(READ);
  setTimeout(
    () =>
      void listening(
        http.createServer((_request, response) => response.end('null')),
        port,
      ),
    200,
  );
  await expect(read).resolves.toBeUndefined();
});

describe('what an error says', () => {
  it('is the last answer, not the attempt that the deadline cut short', async () => {
    const problem = { type: '/problems/queue-full', title: 'Busy', detail: '512 requests wait' };
    const busy = { status: 503, body: JSON.stringify(problem) };
    const { url, received } = await aServer(busy, busy, 'hang');
    const error = await failureOf({ baseUrl: url, deadlineMs: 3000, backoffMs: 1, timeoutMs: 60_000 });
    expect(error).toMatchObject({ status: 503, type: problem.type, attempts: 3, limit: 'deadlineMs' });
    expect(error.message).toMatch(
      /failed after 3 attempts: 503 \/problems\/queue-full 512 requests wait; tried for \d+\.\d s, see deadlineMs/,
    );
    expect(received()).toBe(3);
  });

  it('is the time, when nothing else was heard', async () => {
    const { url } = await aServer('hang');
    const error = await failureOf({ baseUrl: url, deadlineMs: 100 });
    expect(error.message).toMatch(
      new RegExp(
        `^get-tuple of thread "thread-1" failed: no answer from ${url}: No answer within \\d+ ms; tried for \\d+\\.\\d s, see deadlineMs`,
      ),
    );
  });

  it('is that it waited for its turn', async () => {
    const { url, received } = await aServer('hang');
    const saver = new HttpCheckpointSaver({ baseUrl: url, deadlineMs: 1000, maxConcurrency: 1 });
    const [, second] = await Promise.allSettled([saver.getTuple(READ), saver.getTuple(READ)]);
    expect(second).toMatchObject({ reason: { attempts: 0, isRetryable: true, limit: 'deadlineMs' } });
    expect(String((second as PromiseRejectedResult).reason)).toMatch(
      /failed before it was sent: it waited for its turn behind others, see maxConcurrency; tried for \d+\.\d s, see deadlineMs/,
    );
    expect(received()).toBe(1);
  });

  it.each([
    ['upstream connect error\nor reset', 'upstream connect error or reset'],
    ['<html><head><style>a{}</style></head><body><h1>No  backend</h1></body>', 'No backend'],
    ['', 'Bad Gateway'],
    ['x'.repeat(100_000), `${'x'.repeat(200)};`],
  ])('has what a proxy answered: %.30s', async (body, words) => {
    const { url } = await aServer({ status: 502, body });
    // The pause is most likely longer than what is left, so this is the only attempt.
    const error = await failureOf({
      baseUrl: url,
      deadlineMs: 3000,
      backoffMs: 60_000,
      maxBackoffMs: 60_000,
    });
    expect(error.message).toContain(`: 502 ${words}`);
  });

  it.each([
    [401, 'Check apiKey'],
    [404, 'Check baseUrl'],
  ])('has what may help: %d', async (status, words) => {
    const { url } = await aServer({ status, body: '{"type":"about:blank","title":"No"}' });
    expect((await failureOf({ baseUrl: url })).message).toMatch(
      new RegExp(`${status} about:blank No. ${words}`),
    );
  });

  it.each([
    [undefined, 'baseUrl is missing, such as http://checkpoints:5003'],
    ['checkpoints', 'baseUrl must be an absolute URL, such as http://checkpoints:5003'],
    ['http://user:secret@ho st', 'baseUrl must be an absolute URL, such as http://checkpoints:5003'],
  ])('names baseUrl: %p', (baseUrl, message) => {
    expect(() => new HttpCheckpointSaver({ baseUrl: baseUrl as never })).toThrow(
      expect.objectContaining({ name: 'TypeError', message }),
    );
  });
});

describe('an operation that is repeated', () => {
  const BUSY = { status: 503, body: '{"type":"/problems/queue-full"}' };
  const FINE = { status: 200 };

  it('is said once, with its reason and how long it may go on; then once a minute', async () => {
    const warned = jest.spyOn(console, 'warn').mockImplementation(() => undefined);
    const { url } = await aServer(FINE, BUSY, BUSY, FINE, BUSY, FINE, BUSY, FINE);
    const saver = new HttpCheckpointSaver({ baseUrl: url, backoffMs: 1 });
    await saver.getTuple(READ);
    expect(warned).not.toHaveBeenCalled();
    await saver.getTuple(READ);
    await saver.getTuple(READ);
    expect(warned.mock.calls).toEqual([
      [
        expect.stringMatching(
          /^langgraph-checkpoint-http: get-tuple of thread "thread-1" failed: 503 \/problems\/queue-full .*\(request \S+\); tries again for up to 120 s$/,
        ),
      ],
    ]);
    const now = Date.now();
    jest.spyOn(Date, 'now').mockReturnValue(now + 60_001);
    await saver.getTuple(READ);
    expect(warned).toHaveBeenCalledTimes(2);
  });

  it('is told to onRetry instead, each time', async () => {
    const warned = jest.spyOn(console, 'warn');
    const { url } = await aServer(BUSY, BUSY, FINE);
    const told: [number, number | undefined, number][] = [];
    const onRetry = ({ attempts, status }: CheckpointHttpError, leftMs: number) => {
      told.push([attempts, status, leftMs]);
    };
    await new HttpCheckpointSaver({ baseUrl: url, backoffMs: 1, deadlineMs: 30_000, onRetry }).getTuple(READ);
    expect(told.map(([attempts, status]) => [attempts, status])).toEqual([
      [1, 503],
      [2, 503],
    ]);
    for (const [, , leftMs] of told) expect(leftMs > 10_000 && leftMs <= 30_000).toBe(true);
    expect(warned).not.toHaveBeenCalled();
  });
});
