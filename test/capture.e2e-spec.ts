import { type TestApp, startApp } from './support/app.js';
import { exchanges, meaning } from './support/capture.js';

describe('the capture of real agents', () => {
  let app: TestApp;
  beforeAll(async () => {
    app = await startApp();
  });
  afterAll(() => app.close());

  it('holds 59 exchanges', () => {
    expect(exchanges).toHaveLength(59);
  });

  it.each(exchanges)('answers exchange $seq, $path, as the original did', async (exchange) => {
    const answer = await app.post(exchange.path.replace('/checkpoints/', ''), exchange.request);
    expect(answer.status).toBe(exchange.status);
    expect(meaning(answer.text)).toBe(meaning(exchange.response ?? ''));
  });
});
