import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import type { Server } from 'node:http';
import net, { type AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { Settings } from '../config/env.js';
import { BACKLOG } from '../http/connections/backlog.js';
import type { MetricSnapshot } from '../observability/metrics/instruments.js';
import type { Metrics } from '../observability/metrics/metrics.js';
import { MetricsSum } from '../observability/metrics/sum.js';

export const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** What the processes tell each other, beside the signal to stop. A connection goes with the first. */
const [CONNECTION, ARRIVED, READY, CLOSED] = ['connection', 'arrived', 'ready', 'closed'];

/**
 * What they say of metrics. The primary asks with `wanted` and gets `metrics`; a worker that was scraped asks with `sum`,
 * and gets the `text`. The number is the question's.
 */
type MetricsMessage =
  { wanted: number } | { metrics: MetricSnapshot[]; of: number } | { sum: number; text?: string };

/** A worker that is busy for longer is counted with what it said last. */
const METRICS_WAIT_MS = 2000;

/** Doubled with each death of a worker, until one has lived for the longer time. */
const MIN_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5000;

/**
 * The processes that answer, and the port, which this process keeps and whose connections it hands to them in turn. Not
 * node:cluster's own sharing of a port: with that, connections are lost that are on their way to the last worker when it
 * closes the port.
 */
export class Workers {
  /** Rejects when a worker cannot start and no other serves. */
  readonly failed: Promise<never>;
  private readonly kept: Promise<void>[];
  /**
   * Those that are ready, the next in turn first, each with the connections that have not arrived there, in their order.
   * This process keeps them until then: Node itself, when a worker dies with one on its way, neither closes it nor says so,
   * and its client would wait for ever.
   */
  private readonly ready = new Map<Worker, Set<Socket>>();
  /** Connections that came while none was ready. */
  private readonly waiting = new Set<Socket>();
  // noDelay as http.Server has it.
  private readonly port = net.createServer({ pauseOnConnect: true, noDelay: true }, (socket) => {
    this.handOver(socket);
  });
  private readonly allReady: Promise<void>;
  private sayAllReady!: () => void;
  private readonly stopping = new AbortController();
  private faults: string[] = [];
  private readonly metrics = new MetricsSum();
  /** Questions for metrics that are open. */
  private readonly asked = new Map<number, () => void>();
  private questions = 0;

  /** Starts them, each with its share of the pool. */
  constructor(
    private readonly settings: Settings,
    private readonly databaseUrl: string,
    private readonly logger: Logger,
  ) {
    // A program of their own, so that the service still runs alone when another program's cluster starts it.
    cluster.setupPrimary({ exec: fileURLToPath(new URL('worker.js', import.meta.url)) });
    const { workers, databasePoolMax } = settings;
    this.allReady = new Promise((resolve) => (this.sayAllReady = resolve));
    const shares = Array.from({ length: workers }, (_, n) => Math.floor((databasePoolMax + n) / workers));
    this.kept = shares.map((poolMax) => this.keep(poolMax));
    this.failed = Promise.all(this.kept).then(() => new Promise(() => undefined));
    this.failed.catch(() => undefined); // nobody may be waiting for it
  }

  /** Opens the port once all are ready; returns its URL. */
  async listen(): Promise<string> {
    await Promise.race([this.allReady, this.failed]);
    this.port.listen({ port: this.settings.port, host: this.settings.host, backlog: BACKLOG });
    await once(this.port, 'listening');
    const { address, family, port } = this.port.address() as AddressInfo;
    return `${this.settings.tls === null ? 'http' : 'https'}://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
  }

  /** The metrics of all workers, added up, in Prometheus's form. */
  async scrape(): Promise<string> {
    await Promise.all([...this.ready.keys()].map((worker) => this.ask(worker)));
    return this.metrics.text();
  }

  private async ask(worker: Worker): Promise<void> {
    const question = (this.questions += 1);
    const expired = new AbortController();
    const answered = new Promise<void>((resolve) => this.asked.set(question, resolve));
    worker.send({ wanted: question } satisfies MetricsMessage, () => undefined);
    await Promise.race([
      answered,
      delay(METRICS_WAIT_MS, undefined, { signal: expired.signal }).catch(() => undefined),
    ]);
    expired.abort();
    this.asked.delete(question);
  }

  private heard(worker: Worker, message: MetricsMessage): void {
    if ('metrics' in message) {
      if (this.ready.has(worker)) this.metrics.set(worker.id, message.metrics);
      this.asked.get(message.of)?.();
    } else if ('sum' in message) {
      void this.scrape().then((text) => worker.send({ sum: message.sum, text }, () => undefined));
    }
  }

  /** Resolves when everything that has arrived is answered. */
  async stop(signal: string): Promise<void> {
    this.stopping.abort();
    tell(signal);
    // One that is being started has no caller, and may take longer than a stop may.
    if (this.ready.size > 0) {
      for (const worker of all()) if (!this.ready.has(worker)) worker.process.kill('SIGKILL');
    }
    await delay(this.settings.shutdownDelayMs);
    this.port.close();
    tell(CLOSED);
    await Promise.all(this.kept);
    if (this.faults.length > 0) throw new Error(this.faults.join('; '));
  }

  /** Ends what is left at once. */
  async end(): Promise<void> {
    this.stopping.abort();
    this.port.close();
    for (const socket of this.waiting) socket.destroy();
    for (const worker of all()) if (worker.isConnected()) worker.process.disconnect();
    await Promise.allSettled(this.kept);
  }

  /** Starts a worker, and another one whenever it dies. */
  private async keep(poolMax: number): Promise<void> {
    for (let wait = MIN_BACKOFF_MS; ; wait = Math.min(2 * wait, MAX_BACKOFF_MS)) {
      const startedAt = Date.now();
      const { name, wasReady, end } = await this.run(poolMax);
      if (this.stopping.signal.aborted) {
        if (wasReady && end !== 'code 0') this.faults.push(`${name} ended with ${end}`);
        return;
      }
      if (!wasReady && (!this.port.listening || this.ready.size === 0)) {
        throw new Error(`${name} could not start, it ended with ${end}`);
      }
      if (Date.now() - startedAt > MAX_BACKOFF_MS) wait = MIN_BACKOFF_MS;
      this.logger.error(`${name} ended with ${end}; another one starts in ${wait} ms`);
      if (await this.stopsWithin(wait)) return;
    }
  }

  private async stopsWithin(ms: number): Promise<boolean> {
    const { signal } = this.stopping;
    await delay(ms, undefined, { signal }).catch(() => undefined);
    return signal.aborted;
  }

  /** Resolves when the worker has ended. */
  private run(poolMax: number): Promise<{ name: string; wasReady: boolean; end: string }> {
    const worker = cluster.fork({
      WORKERS: '1',
      AUTH_MODE: this.settings.authModes.join(',') || 'none',
      DATABASE_URL: this.databaseUrl,
      DATABASE_POOL_MAX: String(poolMax),
      INSTANCES: String(this.settings.instances * this.settings.workers),
    });
    const name = `worker ${worker.id} (process ${worker.process.pid})`;
    worker.on('message', (message: string | MetricsMessage) => {
      if (typeof message === 'object') this.heard(worker, message);
      if (message === ARRIVED) this.close(worker);
      if (message !== READY) return;
      this.logger.info(`${name} is ready`);
      this.ready.set(worker, new Set());
      for (const socket of this.waiting) this.handOver(socket);
      if (this.ready.size === this.settings.workers) this.sayAllReady();
    });
    return new Promise((resolve) => {
      const hasEnded = (end: string) => {
        const onTheirWay = this.ready.get(worker);
        this.ready.delete(worker);
        this.metrics.remove(worker.id);
        for (const socket of onTheirWay ?? []) this.handOver(socket);
        resolve({ name, wasReady: onTheirWay !== undefined, end });
      };
      worker.once('exit', (code: number | null, signal: string | null) => {
        const end = signal ?? `code ${code}`;
        if (!worker.process.connected) {
          hasEnded(end);
          return;
        }
        // What it said last is still to be read. 'disconnect' does not come when a connection was on its way.
        for (const event of ['disconnect', 'close']) {
          worker.process.once(event, () => {
            hasEnded(end);
          });
        }
      });
      // Of one that could be started it only says that a message was not delivered, and 'exit' follows.
      worker.on('error', (error) => {
        if (worker.process.pid === undefined) hasEnded(error.message);
      });
    });
  }

  private handOver(socket: Socket): void {
    const [next] = this.ready;
    if (next === undefined) {
      this.waiting.add(socket);
      return;
    }
    const [worker, onTheirWay] = next;
    this.ready.delete(worker);
    this.ready.set(worker, onTheirWay);
    this.waiting.delete(socket);
    onTheirWay.add(socket);
    worker.process.send(CONNECTION, socket, { keepOpen: true }, () => undefined);
  }

  /** The first one on its way to the worker has arrived there, and is the worker's alone. */
  private close(worker: Worker): void {
    const onTheirWay = this.ready.get(worker);
    const [socket] = onTheirWay ?? [];
    if (socket === undefined) return;
    onTheirWay?.delete(socket);
    socket.destroy();
  }
}

function all(): Worker[] {
  return Object.values(cluster.workers ?? {}).filter((worker) => worker !== undefined);
}

function tell(message: string): void {
  for (const worker of all()) worker.send(message, () => undefined);
}

/** What a worker sees of the process that started it; when that one dies, node:cluster ends the worker. */
export class Primary {
  /** Resolves with the signal that asks the service to stop. */
  readonly stopped = told(...STOP_SIGNALS);
  /** Resolves when the port is closed, and every connection has arrived. */
  readonly closed = told(CLOSED);

  constructor() {
    // A terminal's or an init system's signal also reaches the workers, but it is the primary that knows when to stop.
    for (const signal of STOP_SIGNALS) process.on(signal, () => undefined);
  }

  /** From now on connections come to the server. */
  connect(server: Server): void {
    server.emit('listening'); // http then ends requests that never come to an end
    process.on('message', (message, socket) => {
      if (message !== CONNECTION) return;
      process.send?.(ARRIVED); // before anything is read of it
      // Without one when the caller has hung up on its way.
      if (socket instanceof Socket) server.emit('connection', socket);
    });
    process.send?.(READY);
  }

  /** From now on a scrape of this worker gets the sum over all. */
  shareMetrics(metrics: Metrics): void {
    const asked = new Map<number, (text: string) => void>();
    let questions = 0;
    process.on('message', (message: string | MetricsMessage) => {
      if (typeof message !== 'object') return;
      if ('wanted' in message) {
        void metrics.snapshot().then((snapshot) => {
          process.send?.({ metrics: snapshot, of: message.wanted } satisfies MetricsMessage);
        });
      } else if ('sum' in message) {
        asked.get(message.sum)?.(message.text ?? '');
        asked.delete(message.sum);
      }
    });
    metrics.scrape = () =>
      new Promise((resolve) => {
        const question = (questions += 1);
        asked.set(question, resolve);
        process.send?.({ sum: question } satisfies MetricsMessage);
      });
  }
}

function told(...messages: string[]): Promise<string> {
  return new Promise((resolve) => {
    process.on('message', (message) => {
      if (typeof message === 'string' && messages.includes(message)) resolve(message);
    });
  });
}
