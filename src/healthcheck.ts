import http from 'node:http';
import https from 'node:https';
import { settingsFromEnvironment } from './config/env.js';

// What the image's HEALTHCHECK runs: asks the service of this container, by the settings that it runs with, whether it lives.

const TIMEOUT_MS = 3000;
/** An address that stands for every one of the machine. */
const ANY = new Map([
  ['0.0.0.0', '127.0.0.1'],
  ['::', '::1'],
]);

try {
  const { host, port, tls } = settingsFromEnvironment();
  // The certificate is for the name that agents use, and nothing is sent that would have to be kept from others.
  const options = {
    host: ANY.get(host) ?? host,
    port,
    path: '/health/live',
    timeout: TIMEOUT_MS,
    agent: false,
  };
  const request =
    tls === null ? http.request(options) : https.request({ ...options, rejectUnauthorized: false });
  request.on('response', ({ statusCode }) => process.exit(statusCode === 200 ? 0 : 1));
  request.on('timeout', () => request.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)));
  request.on('error', fail);
  request.end();
} catch (error) {
  fail(error);
}

function fail(error: unknown): void {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}
