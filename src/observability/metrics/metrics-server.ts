import { once } from 'node:events';
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { CONTENT_TYPE } from './metrics.js';

/** Answers a scrape. */
export async function answerScrape(scrape: () => Promise<string>, response: ServerResponse): Promise<void> {
  try {
    const text = await scrape();
    response.writeHead(200, { 'Content-Type': CONTENT_TYPE }).end(text);
  } catch {
    response.writeHead(503).end();
  }
}

/** Serves /metrics, and nothing else, on a port of its own. */
export class MetricsServer {
  private constructor(private readonly server: Server) {}

  static async listen(port: number, host: string, scrape: () => Promise<string>): Promise<MetricsServer> {
    const listener: RequestListener = (request, response) => {
      if (request.method === 'GET' && request.url?.split('?')[0] === '/metrics')
        void answerScrape(scrape, response);
      else response.writeHead(404).end();
    };
    const server = createServer(listener).listen(port, host);
    await once(server, 'listening');
    return new MetricsServer(server);
  }

  get url(): string {
    const { address, family, port } = this.server.address() as AddressInfo;
    return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}/metrics`;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }
}
