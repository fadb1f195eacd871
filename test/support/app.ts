import type { Server } from 'node:http';
import supertest from 'supertest';
import { createDatabase, type TestDatabase } from './database.js';
import { aKey } from './keys.js';

export interface Answer {
  status: number;
  type: string | undefined;
  headers: Record<string, string>;
  /** The exact text of the body. */
  text: string;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any -- a test asserts its shape
  json: any;
}

export interface TestApp {
  url: string;
  database: TestDatabase;
  /** What `post` sends when all suites run with AUTH_MODE=keys, by TEST_SETTINGS; a client has to be given it. */
  key: string | undefined;
  /** Posts to an operation; a string is sent as it is. */
  post: (operation: string, body: object | string, headers?: Record<string, string>) => Promise<Answer>;
  /** As `post`, to any path. */
  send: (path: string, body: object | string, headers?: Record<string, string>) => Promise<Answer>;
  get: (path: string) => Promise<Answer>;
  /** How many requests have arrived. */
  received: () => number;
  close: () => Promise<void>;
}

type Service = typeof import('../../src/server/create-app.js') &
  typeof import('../../src/config/env.js') &
  typeof import('../../src/database/database.js') &
  typeof import('../../src/observability/logging.js');

const { SETTINGS = {}, loadService } = globalThis as unknown as {
  SETTINGS?: Record<string, string>;
  loadService: () => Promise<Service>;
};

/** The service as `npm run build` made it, which `startApp` starts: its classes are not those that `../src` has. */
export { loadService };

/** Runs where statements can be shared: not behind a pooler that keeps no named ones. */
export const itMerging = SETTINGS.DATABASE_PREPARED === 'false' ? it.skip : it;

/**
 * The service on a database of its own, listening on a free port; `environment` sets what a test is about. SETTINGS are
 * those of the project that the test runs in, see jest.config.js.
 */
export async function startApp(
  environment: Record<string, string> = {},
  database?: TestDatabase,
): Promise<TestApp> {
  const { createApp, createLogger, Settings } = await loadService();
  const own = database ?? (await createDatabase());
  const settings = new Settings({
    ...{ LOG_LEVEL: 'silent', AUTH_MODE: 'none', DATABASE_URL: own.url },
    ...SETTINGS,
    ...environment,
  });
  const app = await createApp(settings, settings.databaseUrl ?? own.url, createLogger(settings.logLevel));
  let received = 0;
  (app.getHttpServer() as Server).prependListener('request', () => (received += 1));
  await app.listen(0, '127.0.0.1');
  const url = await app.getUrl();
  const key =
    settings.authModes.includes('keys') && environment.AUTH_MODE === undefined
      ? await aKey(own, { scopes: ['admin'] })
      : undefined;
  const send: TestApp['send'] = async (path, body, headers = {}) =>
    answerOf(
      await supertest(url)
        .post(path)
        .set({ 'content-type': 'application/json', ...(key && { 'x-agent-api-key': key }), ...headers })
        .buffer(true)
        .parse(asText)
        .send(typeof body === 'string' ? body : JSON.stringify(body)),
    );
  return {
    url,
    database: own,
    key,
    post: (operation, body, headers) => send(`/checkpoints/${operation}`, body, headers),
    send,
    received: () => received,
    get: async (path) => answerOf(await supertest(url).get(path).buffer(true).parse(asText)),
    close: async () => {
      await app.close();
      if (database === undefined) await own.drop();
    },
  };
}

function asText(response: supertest.Response, done: (error: Error | null, text: string) => void): void {
  const stream = response as unknown as NodeJS.ReadableStream;
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('end', () => {
    done(null, Buffer.concat(chunks).toString());
  });
}

function answerOf(response: supertest.Response): Answer {
  const text = response.body as string;
  const isJson = response.headers['content-type']?.includes('json') ?? false;
  return {
    status: response.status,
    type: response.headers['content-type'],
    headers: response.headers,
    text,
    json: isJson ? JSON.parse(text) : undefined,
  };
}
