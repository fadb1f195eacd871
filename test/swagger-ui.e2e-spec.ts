import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';
import { EXAMPLES } from '../src/checkpoints/dto/examples.js';
import { type TestApp, startApp } from './support/app.js';

const CHROMIUM = [
  process.env.CHROMIUM_PATH ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => path !== '' && existsSync(path));

if (CHROMIUM === undefined) {
  console.warn('Swagger UI was NOT tested: no Chromium found. Install it, or set CHROMIUM_PATH.');
}

(CHROMIUM === undefined ? describe.skip : describe)('Swagger UI', () => {
  let app: TestApp;
  let browser: Browser;
  let page: Page;
  beforeAll(async () => {
    app = await startApp();
    browser = await chromium.launch({
      ...(CHROMIUM !== undefined && { executablePath: CHROMIUM }),
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-background-networking',
        '--disable-component-update',
      ],
    });
    page = await browser.newPage();
    await page.goto(`${app.url}/docs`);
    await page.waitForSelector('.opblock');
  });
  afterAll(async () => {
    await browser.close();
    await app.close();
  });

  /** Opens an operation, presses "Execute" with the example that stands there, and reads the answer. */
  async function tryOut(operation: string): Promise<{ status: string; body: string }> {
    const block = page.locator('.opblock', { has: page.locator(`[data-path="/checkpoints/${operation}"]`) });
    await block.locator('.opblock-summary').click();
    await block.getByRole('button', { name: 'Execute' }).click();
    const answer = block.locator('.live-responses-table .response').first();
    await answer.waitFor();
    return {
      status: (await answer.locator('.response-col_status').innerText()).trim(),
      body: await answer.locator('.response-col_description').innerText(),
    };
  }

  it('lists the operations with their summaries', async () => {
    const paths = await page.locator('.opblock-summary-path').allInnerTexts();
    expect(paths.map((path) => path.replaceAll('\u200b', ''))).toEqual(
      expect.arrayContaining(
        ['get-tuple', 'put', 'put-writes', 'list', 'delete-thread'].map((name) => `/checkpoints/${name}`),
      ),
    );
    expect(await page.locator('.opblock-summary-description').allInnerTexts()).toContain(
      'Store a checkpoint',
    );
  });

  it('stores the example of put on the first click, and get-tuple shows it', async () => {
    expect((await tryOut('put')).status).toBe('200');
    expect((await tryOut('put-writes')).status).toBe('204');
    const { status, body } = await tryOut('get-tuple');
    expect(status).toBe('200');
    expect(body).toContain(EXAMPLES.key.checkpoint_id);
    expect(body).toContain(EXAMPLES.tuple.blobs[0]?.blob);
    expect(body).toContain('branch:to:plan');
  });
});
