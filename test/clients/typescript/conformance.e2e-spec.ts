import { deltaChannelHistoryTests, specTest } from '@langchain/langgraph-checkpoint-validation';
import { HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { TABLES } from '../../support/schema.js';

// Vitest's `expect.soft` goes on after a failure; here the first one ends the test.
Object.assign(expect, { soft: expect });

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const initializer = {
  checkpointerName: 'langgraph-checkpoint-http',
  createCheckpointer: () => new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key }),
  destroyCheckpointer: async () => {
    await app.database.sql(`truncate ${TABLES.join()}`);
  },
};

specTest(initializer);
deltaChannelHistoryTests(initializer);
