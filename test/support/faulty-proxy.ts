import http from 'node:http';
import type { AddressInfo } from 'node:net';

/** What happens to the request with this number, which counts from 1. */
export type Fault = 'none' | 'drop before' | 'drop after' | 'hang' | '503' | '502' | 'cut';

export interface FaultyProxy {
  url: string;
  /** How many requests have arrived. */
  readonly requests: number;
  /** The headers of every request so far. */
  readonly headers: http.IncomingHttpHeaders[];
  close: () => Promise<void>;
}

/**
 * A proxy before `target` that loses what a network loses: `drop before` closes the connection before the service gets the
 * request, `drop after` once the service has done its work, `cut` in the middle of the answer.
 */
export async function startFaultyProxy(
  target: string,
  faultOf: (request: number, path: string) => Fault,
): Promise<FaultyProxy> {
  const headers: http.IncomingHttpHeaders[] = [];
  const server = http.createServer((request, response) => {
    headers.push(request.headers);
    const fault = faultOf(headers.length, request.url ?? '');
    if (fault === 'hang') return;
    if (fault === 'drop before') return void request.socket.destroy();
    if (fault === '503') {
      response.writeHead(503, { 'content-type': 'application/problem+json', 'retry-after': '0' });
      return void response.end('{"type":"/problems/queue-full","title":"Busy","status":503}');
    }
    if (fault === '502') return void response.writeHead(502).end('<html>Bad gateway</html>');
    const forwarded = http.request(target + (request.url ?? ''), {
      method: request.method,
      headers: request.headers,
    });
    forwarded.on('error', () => response.destroy());
    forwarded.on('response', (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        const body = Buffer.concat(chunks);
        if (fault === 'drop after') return void request.socket.destroy();
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        if (fault !== 'cut') return void response.end(body);
        response.write(body.subarray(0, Math.ceil(body.length / 2)), () => request.socket.destroy());
      });
    });
    request.pipe(forwarded);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get requests() {
      return headers.length;
    },
    headers,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
