import { availableParallelism } from 'node:os';

const project = {
  testEnvironment: '<rootDir>/test/support/environment.mjs',
  extensionsToTreatAsEsm: ['.ts'],
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': '$1' },
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      {
        jsc: {
          target: 'es2023',
          parser: { syntax: 'typescript', decorators: true },
          transform: { legacyDecorator: true, decoratorMetadata: true },
        },
        module: { type: 'es6' },
      },
    ],
  },
  setupFiles: ['reflect-metadata'],
  globalSetup: '<rootDir>/test/support/global-setup.mjs',
  globalTeardown: '<rootDir>/test/support/global-teardown.mjs',
};

/** Settings of the service that every suite runs with, as a JSON object. */
const SETTINGS = JSON.parse(process.env.TEST_SETTINGS ?? '{}');

/** @type {import('jest').Config} */
export default {
  projects: [
    {
      ...project,
      displayName: 'fast',
      globals: { SETTINGS },
      testMatch: ['<rootDir>/src/**/*.spec.ts', '<rootDir>/test/**/*.e2e-spec.ts'],
    },
    {
      ...project,
      displayName: 'plain',
      // What one request and its answer are about, once more without the fast path, and with values stored as deltas.
      testMatch: [
        '<rootDir>/test/{batch,capture,copy-thread,delete-thread,delta-channel-history,get-tuple,http,limits,list}.e2e-spec.ts',
        '<rootDir>/test/{properties,prune,put,put-writes,refusals,tenants}.e2e-spec.ts',
      ],
      globals: { SETTINGS: { ...SETTINGS, FAST_PATH: 'false', BLOB_STORAGE: 'delta' } },
    },
  ],
  // Node keeps every ESM module registry of a worker alive: some 25 MB a file.
  workerIdleMemoryLimit: '1GB',
  // Shared machines are slow by a factor of ten at times; a test that hangs still ends.
  testTimeout: 90_000,
  // Tests wait for Postgres and for processes: as many workers as cores left both cores of a machine idle at times.
  maxWorkers: Math.ceil(1.5 * availableParallelism()),
};
