import type { Server, ServerResponse } from 'node:http';

const KEEPS_ALIVE = Symbol('keeps alive');
type Expecting = ServerResponse & { [KEEPS_ALIVE]?: boolean };

/**
 * A client that sends `Expect: 100-continue` keeps its body until it is asked for. Node asks at once; here `askForBody` does,
 * when the request has passed everything that refuses it without its body. A connection whose client was not asked ends with
 * the answer, since nobody can tell whether a body follows.
 */
export function expectContinue(server: Server): void {
  server.on('checkContinue', (request, response: Expecting) => {
    response[KEEPS_ALIVE] = response.shouldKeepAlive;
    response.shouldKeepAlive = false;
    server.emit('request', request, response);
  });
}

/** The body is about to be read. */
export function askForBody(response: ServerResponse): void {
  const expecting: Expecting = response;
  const keepsAlive = expecting[KEEPS_ALIVE];
  if (keepsAlive === undefined) return;
  expecting[KEEPS_ALIVE] = undefined;
  response.shouldKeepAlive = keepsAlive;
  response.writeContinue();
}
