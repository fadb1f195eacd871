// The environment of every suite. The built service is loaded outside of Jest's module registry, once for each worker:
// the registry would read its 3,000 files anew for every suite, which took 2 to 3 s of CPU for each of some 75.
import { TestEnvironment } from 'jest-environment-node';

const SERVICE = ['server/create-app.js', 'config/env.js', 'database/database.js', 'observability/logging.js'];

export default class extends TestEnvironment {
  async setup() {
    await super.setup();
    // Node warns its own process object, which no suite can listen to.
    this.global.nodeWarnings = [];
    process.on('warning', this.keep);
    this.global.loadService = async () =>
      Object.assign({}, ...(await Promise.all(SERVICE.map((path) => import(`../../dist/src/${path}`)))));
  }

  async teardown() {
    process.off('warning', this.keep);
    await super.teardown();
  }

  keep = (warning) => {
    // Jest runs on an experimental feature.
    if (warning.name !== 'ExperimentalWarning') this.global?.nodeWarnings.push(String(warning));
  };
}
