import supertest from 'supertest';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aThread } from './support/builders.js';

const OURS = 'https://console.example.com';
const preflight = (app: TestApp, origin: string, path = '/checkpoints/get-tuple') =>
  supertest(app.url).options(path).set({
    origin,
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'x-agent-api-key',
  });
const ofCors = (headers: Record<string, string>) =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith('access-control-')));

// FAST_PATH: the operations then go around Express.
describe.each(['true', 'false'])('pages of other origins, FAST_PATH=%s', (FAST_PATH) => {
  let app: TestApp;
  afterEach(() => app.close());
  const start = async (environment: Record<string, string> = {}) => {
    app = await startApp({ FAST_PATH, ...environment });
  };

  it('get no leave by default', async () => {
    await start();
    const asked = await preflight(app, OURS);
    expect([asked.status, ofCors(asked.headers)]).toEqual([404, {}]);
    const answer = await app.post('get-tuple', { thread_id: aThread() }, { origin: OURS });
    expect([answer.status, ofCors(answer.headers)]).toEqual([200, {}]);
  });

  it('may use the operations when they are listed', async () => {
    await start({ CORS_ORIGINS: `http://localhost:3000, ${OURS}` });
    for (const origin of [OURS, 'http://localhost:3000']) {
      const asked = await preflight(app, origin);
      expect(asked.status).toBe(204);
      expect(asked.headers).toMatchObject({
        'access-control-allow-origin': origin,
        'access-control-allow-methods': 'GET, POST',
        'access-control-allow-headers': expect.stringMatching(/authorization.*content-type.*x-agent-api-key/),
        vary: 'Origin',
      });
    }
    const thread_id = aThread();
    for (const checkpoint_id of ['1', '2']) await app.post('put', aPut({ thread_id, checkpoint_id }));
    const page = await app.post('list', { thread_id, limit: 1 }, { origin: OURS });
    expect(page.headers['x-next-cursor']).toBeDefined();
    expect(ofCors(page.headers)).toEqual({
      'access-control-allow-origin': OURS,
      'access-control-expose-headers': expect.stringContaining('x-next-cursor, x-request-id'),
    });
  });

  it('may read refusals, too', async () => {
    await start({ CORS_ORIGINS: OURS });
    const refused = await app.post('get-tuple', '{', { origin: OURS });
    expect([refused.status, refused.headers['access-control-allow-origin']]).toEqual([400, OURS]);
  });

  it.each([
    'https://evil.example',
    'http://console.example.com',
    'https://console.example.com.evil.example',
    'https://console.example.com:8443',
    'null',
  ])('get no leave when others are listed: %s', async (origin) => {
    await start({ CORS_ORIGINS: OURS });
    const asked = await preflight(app, origin);
    expect([asked.status, ofCors(asked.headers)]).toEqual([404, {}]);
    const answer = await app.post('get-tuple', { thread_id: aThread() }, { origin });
    expect([ofCors(answer.headers), answer.headers.vary]).toEqual([{}, 'Origin']);
  });
});

describe('what browsers see', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  it.each(['/docs', '/openapi.json', '/health/live', '/nowhere', '/metrics'])(
    'has their protections: %s',
    async (path) => {
      const { headers } = await app.get(path);
      expect(headers).toMatchObject({
        'content-security-policy': expect.stringContaining("default-src 'none'"),
        'x-content-type-options': 'nosniff',
        'x-frame-options': 'DENY',
        'referrer-policy': 'no-referrer',
      });
      expect(headers).not.toHaveProperty('x-powered-by');
      // Over plain HTTP a browser ignores it, and a proxy would pass on what is not ours to say.
      expect(headers).not.toHaveProperty('strict-transport-security');
    },
  );
});
