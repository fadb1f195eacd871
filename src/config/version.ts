import { existsSync, readFileSync } from 'node:fs';

/** Beside `src`, and beside `dist`, one level deeper. */
const PACKAGE = ['../../package.json', '../../../package.json']
  .map((path) => new URL(path, import.meta.url))
  .find((url) => existsSync(url));

/** The version of the service, as its package.json has it. */
export const VERSION =
  PACKAGE === undefined
    ? 'unknown'
    : (JSON.parse(readFileSync(PACKAGE, 'utf8')) as { version: string }).version;
