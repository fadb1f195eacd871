import http from 'node:http';
import type { AddressInfo } from 'node:net';

type Value = string | number | boolean;

export interface ReceivedSpan {
  traceId: string;
  spanId: string;
  parentSpanId: string | undefined;
  name: string;
  kind: number;
  start: bigint;
  end: bigint;
  attributes: Record<string, Value>;
  links: { traceId: string; spanId: string }[];
  events: { name: string; attributes: Record<string, Value> }[];
  /** 0: not set, 2: error */
  status: number;
  resource: Record<string, Value>;
}

export interface OtlpReceiver {
  url: string;
  spans: ReceivedSpan[];
  /** Path and content type of each request. */
  requests: string[];
  /** All that came as JSON. */
  text: () => string;
  close: () => Promise<void>;
}

interface Attribute {
  key: string;
  value: { stringValue?: string; intValue?: number | string; doubleValue?: number; boolValue?: boolean };
}

interface Export {
  resourceSpans: {
    resource: { attributes: Attribute[] };
    scopeSpans: {
      spans: {
        traceId: string;
        spanId: string;
        parentSpanId?: string;
        name: string;
        kind: number;
        startTimeUnixNano: string;
        endTimeUnixNano: string;
        attributes?: Attribute[];
        links?: { traceId: string; spanId: string }[];
        events?: { name: string; attributes?: Attribute[] }[];
        status?: { code?: number };
      }[];
    }[];
  }[];
}

const objectOf = (attributes: Attribute[] = []): Record<string, Value> =>
  Object.fromEntries(
    attributes.map(({ key, value: { stringValue, intValue, doubleValue, boolValue } }) => [
      key,
      stringValue ?? (intValue === undefined ? (doubleValue ?? boolValue ?? '') : Number(intValue)),
    ]),
  );

/** A collector of traces: what OTLP over HTTP brings, as JSON. */
export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const requests: string[] = [];
  let texts = '';
  const server = http.createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const type = request.headers['content-type'] ?? '';
      requests.push(`${request.url} ${type}`);
      response.writeHead(200, { 'content-type': type }).end(type === 'application/json' ? '{}' : '');
      if (type !== 'application/json') return;
      const text = Buffer.concat(chunks).toString();
      texts += text;
      for (const { resource, scopeSpans } of (JSON.parse(text) as Export).resourceSpans) {
        for (const span of scopeSpans.flatMap((scope) => scope.spans)) {
          spans.push({
            traceId: span.traceId,
            spanId: span.spanId,
            parentSpanId: span.parentSpanId,
            name: span.name,
            kind: span.kind,
            start: BigInt(span.startTimeUnixNano),
            end: BigInt(span.endTimeUnixNano),
            attributes: objectOf(span.attributes),
            links: (span.links ?? []).map(({ traceId, spanId }) => ({ traceId, spanId })),
            events: (span.events ?? []).map((event) => ({
              name: event.name,
              attributes: objectOf(event.attributes),
            })),
            status: span.status?.code ?? 0,
            resource: objectOf(resource.attributes),
          });
        }
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    requests,
    text: () => texts,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}
