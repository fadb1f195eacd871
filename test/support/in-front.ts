import { type IncomingMessage, type ServerResponse, createServer } from 'node:http';
import { type AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

export interface Reply {
  /** 0: the connection is closed in place of a reply. */
  status: number;
  headers: Record<string, string>;
  body: string;
}
/** Makes the reply to a request out of what the service would reply. */
export type Handler = (request: IncomingMessage, body: string, right: () => Promise<Reply>) => Promise<Reply>;

/** A server in front of another: on its own loopback port, over real connections. */
export async function inFrontOf<T>(
  target: string,
  handler: Handler,
  run: (url: string, sockets: unknown[]) => Promise<T>,
): Promise<T> {
  const sockets: unknown[] = [];
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    sockets.push(request.socket);
    const body = await text(request);
    const headers = {
      'content-type': String(request.headers['content-type']),
      'x-request-id': String(request.headers['x-request-id']),
    };
    const right = async () => {
      const found = await fetch(target + String(request.url), { method: 'POST', headers, body });
      const id = found.headers.get('x-request-id') ?? '';
      return { status: found.status, headers: { 'x-request-id': id }, body: await found.text() };
    };
    const reply = await handler(request, body, right);
    if (reply.status === 0) request.socket.destroy();
    else response.writeHead(reply.status, reply.headers).end(reply.status === 204 ? undefined : reply.body);
  };
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    return await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, sockets);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}
