import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { Chance } from './chance.js';
import { ownersIn, tenantsIn } from './content.js';
import type { Findings } from './findings.js';

/** An answer that takes longer is a fault: the service promises one before. */
const HANG_MS = 90_000;
/** A request that is refused for want of room is sent again; so often, it is a fault. */
const MAX_ATTEMPTS = 200;
const MAX_BATCH_LENGTH = 8 * 1024 * 1024;

const compress = {
  gzip: (bytes: Buffer) => promisify(zlib.gzip)(bytes, { level: 1 }),
  deflate: (bytes: Buffer) => promisify(zlib.deflate)(bytes, { level: 1 }),
  br: (bytes: Buffer) =>
    promisify(zlib.brotliCompress)(bytes, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } }),
};
type Encoding = keyof typeof compress;

export interface Tenant {
  name: string;
  key: string;
}

/** What all callers of a run share. */
export interface Service {
  urls: string[];
  findings: Findings;
}

export interface Answer {
  status: number;
  json: unknown;
  /** Of a list: where it goes on. */
  cursor: string | undefined;
  bytes: number;
}

export type Store = [operation: 'put' | 'put-writes', body: object];

/** The soak cannot go on: a valid request gets no answer of use. */
export class GaveUpError extends Error {}

/** A tenant's client: bodies in all encodings, slow and fast, now to one instance and now to the other. */
export class Caller {
  private readonly connections = new http.Agent({ keepAlive: true, maxSockets: 1 });

  constructor(
    private readonly service: Service,
    readonly tenant: Tenant,
    readonly chance: Chance,
  ) {}

  get findings(): Findings {
    return this.service.findings;
  }

  get url(): string {
    return this.chance.of(this.service.urls);
  }

  /** Sends valid stores in their order until each is acknowledged, now each alone and now together. @throws GaveUpError */
  async store(stores: Store[]): Promise<void> {
    const isLarge = JSON.stringify(stores).length > MAX_BATCH_LENGTH;
    if (isLarge || this.chance.is(0.6)) {
      for (const [operation, body] of stores) await this.post(operation, body);
      return;
    }
    let left = stores;
    for (let attempt = 0; left.length > 0; attempt += 1) {
      if (attempt === MAX_ATTEMPTS)
        throw new GaveUpError(`${this.tenant.name}: a batch is never acknowledged`);
      const lines = left.flatMap(([operation, body]) => [{ operation }, body]);
      const { json } = await this.acknowledged('batch', lines.map((line) => JSON.stringify(line)).join('\n'));
      const { results } = json as { results: { status: number }[] };
      for (const [at, { status }] of results.entries()) {
        if (status >= 300 && status !== 503)
          this.findings.fault(
            'misjudged',
            `${this.tenant.name}: a valid ${left[at]?.[0]} of a batch got ${status}`,
          );
      }
      left = left.filter((_, at) => results[at]?.status !== 200 && results[at]?.status !== 204);
      if (left.length > 0) await delay(50 + 200 * this.chance.next());
    }
  }

  /** Sends a valid request until it is acknowledged. @throws GaveUpError */
  post(operation: string, body: object): Promise<Answer> {
    return this.acknowledged(operation, JSON.stringify(body));
  }

  private async acknowledged(operation: string, text: string): Promise<Answer> {
    const plain = Buffer.from(text);
    const encoding = this.chance.is(plain.length > 1e6 ? 0.15 : 0.3)
      ? this.chance.of(['gzip', 'deflate', 'br'] as const)
      : undefined;
    const sent = encoding === undefined ? plain : await compress[encoding](plain);
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
      const answer = await this.attempt(operation, sent, encoding);
      if (answer !== null && answer.status < 300) return answer;
      if (answer !== null && answer.status !== 503) {
        const kind = answer.status < 500 ? 'misjudged' : 'broken';
        this.findings.fault(
          kind,
          `${this.tenant.name}: a valid ${operation} of ${plain.length} bytes, ${encoding ?? 'plain'}, got ${answer.status} ${JSON.stringify(answer.json)}`,
        );
        if (attempt > 5) break;
      }
      await delay(50 + 200 * this.chance.next());
    }
    throw new GaveUpError(`${this.tenant.name}: ${operation} of ${plain.length} bytes is never acknowledged`);
  }

  /** One attempt; null when the connection, which was idle before, was closed just then. */
  private async attempt(
    operation: string,
    body: Buffer,
    encoding: Encoding | undefined,
  ): Promise<Answer | null> {
    const request = http.request(`${this.url}/checkpoints/${operation}`, {
      agent: this.connections,
      method: 'POST',
      timeout: HANG_MS,
      headers: {
        'content-type': operation === 'batch' ? 'application/x-ndjson' : 'application/json',
        'content-length': body.length,
        'x-agent-api-key': this.tenant.key,
        ...(encoding !== undefined && { 'content-encoding': encoding }),
        ...(this.chance.is(0.2) && { 'accept-encoding': 'gzip' }),
      },
    });
    request.on('timeout', () => request.destroy(new Error(`no answer within ${HANG_MS} ms`)));
    try {
      const responded = once(request, 'response') as Promise<[http.IncomingMessage]>;
      responded.catch(() => undefined);
      await this.upload(request, body);
      const [response] = await responded;
      return await this.read(operation, response);
    } catch (error) {
      const { code, message } = error as { code?: string; message: string };
      if (request.reusedSocket && (code === 'ECONNRESET' || code === 'EPIPE')) return null;
      this.findings.fault('broken', `${this.tenant.name}: ${operation} of ${body.length} bytes: ${message}`);
      return null;
    }
  }

  /** Some bodies come in pieces, with pauses. */
  private async upload(request: http.ClientRequest, body: Buffer): Promise<void> {
    const pieces = this.chance.is(0.2) ? this.chance.between(2, 6) : 1;
    const size = Math.ceil(body.length / pieces);
    for (let at = size; at < body.length; at += size) {
      request.write(body.subarray(at - size, at));
      await delay(this.chance.between(1, 30));
    }
    request.end(body.subarray((pieces - 1) * size));
  }

  private async read(operation: string, response: http.IncomingMessage): Promise<Answer> {
    const isSlow = this.chance.is(0.1);
    const parts: Buffer[] = [];
    for await (const part of response) {
      parts.push(part as Buffer);
      if (isSlow) await delay(1);
    }
    const status = response.statusCode ?? 0;
    this.findings.answered(operation, status);
    let bytes = Buffer.concat(parts);
    if (response.headers['content-encoding'] === 'gzip') bytes = zlib.gunzipSync(bytes);
    this.findings.comparedBytes += bytes.length;
    const text = bytes.toString('utf8');
    this.own(`the answer ${status} of ${operation}`, text);
    const cursor = response.headers['x-next-cursor'] as string | undefined;
    if (text === '') return { status, json: undefined, cursor, bytes: 0 };
    try {
      return { status, json: JSON.parse(text) as unknown, cursor, bytes: bytes.length };
    } catch {
      this.findings.fault('wrong', `${operation} got ${status} and no JSON: ${text.slice(0, 200)}`);
      return { status, json: null, cursor, bytes: bytes.length };
    }
  }

  /** Every tenant's content names it: that of another one is a leak, whatever else is right. */
  own(what: string, bytes: Buffer | string): void {
    for (const tenant of tenantsIn(bytes)) {
      if (tenant !== this.tenant.name)
        this.findings.fault('foreign', `${this.tenant.name} sees in ${what} content ${ownersIn(bytes)}`);
    }
  }

  close(): void {
    this.connections.destroy();
  }
}
