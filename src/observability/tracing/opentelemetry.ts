import { AsyncLocalStorage } from 'node:async_hooks';
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type Context,
  defaultTextMapGetter,
  diag,
  DiagLogLevel,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace as api,
  type Tracer,
} from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base';
import type { TracingSettings } from '../../config/env.js';
import { VERSION } from '../../config/version.js';
import type { RequestTrace, Tracing } from './tracing.js';

const NAME = 'checkpoint-backend';

/** What of a body says what the request is about. Documents and blobs are the callers' own. */
const ID_FIELDS = ['thread_id', 'checkpoint_ns', 'checkpoint_id'] as const;

type NameOf = (request: IncomingMessage) => string;

/** Of what is under way in this asynchronous context. */
interface Scope {
  request?: TracedRequest;
  statements?: Statement[];
}

/** The span of a statement in the trace of one of its requests. */
interface Statement {
  request: TracedRequest;
  span: Span;
}

/** Traces by OpenTelemetry's SDK, which reads the OTEL_* variables itself. */
export class OpenTelemetry implements Tracing {
  private readonly scope = new AsyncLocalStorage<Scope>();
  private readonly propagator = new W3CTraceContextPropagator();
  private readonly tracer: Tracer;

  private constructor(
    private readonly provider: BasicTracerProvider,
    private readonly nameOf: NameOf,
  ) {
    this.tracer = provider.getTracer(NAME, VERSION);
  }

  static async start(
    { protocol }: TracingSettings,
    nameOf: NameOf,
    warn: (message: string) => void,
  ): Promise<OpenTelemetry> {
    const say = (message: string, ...rest: unknown[]) => {
      warn(`OpenTelemetry: ${[message, ...rest.map(String)].join(' ')}`);
    };
    const nothing = () => undefined;
    const logger = { error: say, warn: say, info: nothing, debug: nothing, verbose: nothing };
    diag.setLogger(logger, { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true });
    const resource = defaultResource()
      .merge(resourceFromAttributes({ 'service.name': NAME, 'service.version': VERSION }))
      .merge(detectResources({ detectors: [envDetector] }));
    const exporter = await exporterFor(protocol);
    const provider = new BasicTracerProvider({
      resource,
      spanProcessors: [new BatchSpanProcessor(exporter)],
    });
    return new OpenTelemetry(provider, nameOf);
  }

  begin(request: IncomingMessage, response: ServerResponse): void {
    const parent = this.propagator.extract(ROOT_CONTEXT, request.headers, defaultTextMapGetter);
    const { method = '', url = '' } = request;
    const path = url.split('?')[0] ?? '';
    const operation = this.nameOf(request);
    const known = operation !== 'other';
    const startTime = Date.now();
    const span = this.tracer.startSpan(
      known ? `${method} ${path}` : method,
      {
        kind: SpanKind.SERVER,
        startTime,
        attributes: {
          'http.request.method': method,
          'url.path': path,
          'url.scheme': 'http',
          'network.protocol.version': request.httpVersion,
          'checkpoint_backend.request_id': String(response.getHeader('x-request-id') ?? ''),
          ...(known && { 'http.route': path, 'checkpoint_backend.operation': operation }),
        },
      },
      parent,
    );
    if (!span.isRecording()) return;
    const traced = new TracedRequest(
      span,
      startTime - performance.now(),
      api.setSpan(parent, span),
      this.tracer,
      this.scope,
    );
    request.trace = traced;
    traced.endWith(response);
  }

  current(): TracedRequest | undefined {
    return this.scope.getStore()?.request;
  }

  begun({ trace, since }: { trace?: unknown; since: number }): void {
    if (trace instanceof TracedRequest) endSpan(trace.child('queue', since), trace.at());
  }

  gaveUp({ trace, since }: { trace?: unknown; since: number }, reason: Error): void {
    if (trace instanceof TracedRequest) endSpan(trace.child('queue', since), trace.at(), reason);
  }

  /** Of a statement that several requests share each has a span, so that its trace is whole; they link to the first one's. */
  async statement<T>(requests: { trace?: unknown }[], work: () => Promise<T>): Promise<T> {
    const traced = requests.flatMap(({ trace }) => (trace instanceof TracedRequest ? [trace] : []));
    const statements: Statement[] = [];
    for (const request of traced) {
      statements.push({ request, span: request.statement(requests.length, statements[0]?.span) });
    }
    const end = (error?: unknown) => {
      for (const { request, span } of statements) {
        endSpan(span, request.at(), error);
        request.hasResult();
      }
    };
    try {
      const result = await this.scope.run({ statements }, work);
      end();
      return result;
    } catch (error) {
      end(error);
      throw error;
    }
  }

  retry({ code, message }: Error & { code?: string }, waitMs: number): void {
    for (const { request, span } of this.scope.getStore()?.statements ?? []) {
      const attributes = { 'error.type': code ?? message, 'checkpoint_backend.wait_ms': waitMs };
      span.addEvent('retry', attributes, request.at());
    }
  }

  async stop(): Promise<void> {
    // What a collector that is away does not get must not make the stop a failure.
    await this.provider.shutdown().catch(() => undefined);
  }
}

class TracedRequest implements RequestTrace {
  private resultAt: number | null = null;

  constructor(
    private readonly span: Span,
    /** From `performance.now()` to the time of day, as it was when the request began. */
    private readonly offset: number,
    private readonly context: Context,
    private readonly tracer: Tracer,
    private readonly scope: AsyncLocalStorage<Scope>,
  ) {}

  get traceId(): string {
    return this.span.spanContext().traceId;
  }

  run(body: unknown, next: () => void): void {
    for (const field of ID_FIELDS) {
      const id = (body as Record<string, unknown>)[field];
      if (typeof id === 'string' || typeof id === 'number') this.span.setAttribute(`langgraph.${field}`, id);
    }
    this.scope.run({ request: this }, next);
  }

  /** One clock for all spans of a request; left alone each span has its own, which differ by up to a millisecond. */
  at(since = performance.now()): number {
    return this.offset + since;
  }

  child(name: string, since: number): Span {
    return this.tracer.startSpan(name, { startTime: this.at(since) }, this.context);
  }

  statement(requests: number, first: Span | undefined): Span {
    return this.tracer.startSpan(
      'postgresql',
      {
        kind: SpanKind.CLIENT,
        startTime: this.at(),
        attributes: {
          'db.system.name': 'postgresql',
          ...(requests > 1 && { 'db.operation.batch.size': requests }),
        },
        ...(first && { links: [{ context: first.spanContext() }] }),
      },
      this.context,
    );
  }

  hasResult(): void {
    this.resultAt = performance.now();
  }

  /** The time from the last result to the end of the answer's text is what serialisation took. */
  endWith(response: ServerResponse): void {
    const end = response.end.bind(response) as (...args: unknown[]) => ServerResponse;
    response.end = (...args: unknown[]) => {
      if (this.resultAt !== null) endSpan(this.child('serialize', this.resultAt), this.at());
      this.resultAt = null;
      return end(...args);
    };
    response.once('close', () => {
      const { statusCode, writableFinished, err } = response;
      if (writableFinished) this.span.setAttribute('http.response.status_code', statusCode);
      if (!writableFinished) this.span.setAttribute('error.type', 'client_closed_request');
      else if (statusCode >= 500) {
        this.span.setAttribute('error.type', String(statusCode));
        this.span.setStatus({ code: SpanStatusCode.ERROR, ...(err && { message: err.name }) });
      }
      this.span.end(this.at());
    });
  }
}

/** No message goes out: it may quote what is stored. */
function endSpan(span: Span, endTime: number, error?: unknown): void {
  if (error !== undefined) {
    const { name, code } = error as Error & { code?: string };
    span.setAttribute('error.type', code ?? name);
    span.setStatus({ code: SpanStatusCode.ERROR });
  }
  span.end(endTime);
}

/** Both read their endpoint, headers, time-out and certificates from the environment. */
async function exporterFor(protocol: TracingSettings['protocol']): Promise<SpanExporter> {
  const { OTLPTraceExporter } =
    protocol === 'http/json'
      ? await import('@opentelemetry/exporter-trace-otlp-http')
      : await import('@opentelemetry/exporter-trace-otlp-proto');
  return new OTLPTraceExporter();
}
