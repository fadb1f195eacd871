import type { IncomingMessage } from 'node:http';

/** What is no operation; so that there are few names, whatever is asked for. */
const OTHER = 'other';

/** The name of a POST route: `put` for `/checkpoints/put`, `keys-create` for `/keys/create`. */
export function operationOf(path: string): string {
  return path.replace('/checkpoints/', '').replace(/^\//, '').replaceAll('/', '-');
}

/** The names of the routes, for metrics and traces. */
export class Operations {
  private readonly names = new Map([
    ['GET /health/live', 'live'],
    ['GET /health/ready', 'ready'],
  ]);
  private readonly posts = new Map<string, string>();

  /** A POST route. */
  add(path: string): void {
    this.posts.set(path, operationOf(path));
  }

  nameOf({ method, url = '' }: IncomingMessage): string {
    if (method === 'POST') {
      const name = this.posts.get(url);
      if (name !== undefined) return name;
    }
    const path = url.split('?')[0] ?? '';
    return (method === 'POST' ? this.posts.get(path) : this.names.get(`${method} ${path}`)) ?? OTHER;
  }
}
