import http from 'node:http';
import https from 'node:https';
import { once } from 'node:events';
import { Command } from 'commander';
import { settingsFromEnvironment } from '../config/env.js';
import { FailureError } from './outcome.js';

const TIMEOUT_MS = 3000;
/** An address that stands for every one of the machine. */
const ANY = new Map([
  ['0.0.0.0', '127.0.0.1'],
  ['::', '::1'],
]);

export function healthcheckCommand(): Command {
  return new Command('healthcheck')
    .description('Ask the service that runs here, with the same settings, whether it lives.')
    .action(healthcheck);
}

async function healthcheck(): Promise<void> {
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
  request.on('timeout', () => request.destroy(new FailureError(`no answer within ${TIMEOUT_MS} ms`)));
  request.end();
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  response.destroy();
  if (response.statusCode !== 200) throw new FailureError(`the service answered ${response.statusCode}`);
}
