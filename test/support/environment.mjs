// The environment of every suite. The built service is loaded outside of Jest's module registry, once for each worker:
// the registry would read its 3,000 files anew for every suite, which took 2 to 3 s of CPU for each of some 75.
import { TestEnvironment } from 'jest-environment-node';

const SERVICE = ['server/create-app.js', 'config/env.js', 'database/database.js', 'observability/logging.js'];

export default class extends TestEnvironment {
  async setup() {
    await super.setup();
    this.global.loadService = async () =>
      Object.assign({}, ...(await Promise.all(SERVICE.map((path) => import(`../../dist/src/${path}`)))));
  }
}
