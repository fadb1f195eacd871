/** A thread of its own, so that large answers do not hold it up: asks for liveness over and over. */
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';

const PAUSE_MS = 10;
const agent = new http.Agent({ keepAlive: true });
let longestMs = 0;

function probe(): Promise<void> {
  const begun = performance.now();
  return new Promise((resolve) => {
    const done = () => {
      longestMs = Math.max(longestMs, performance.now() - begun);
      resolve();
    };
    const request = http.get(`${workerData as string}/health/live`, { agent }, (response) => {
      response.resume().on('close', done);
    });
    request.on('error', done);
  });
}

parentPort?.on('message', () => {
  parentPort?.postMessage(longestMs);
  longestMs = 0;
});
for (;;) {
  await probe();
  await delay(PAUSE_MS);
}
