import { performance } from 'node:perf_hooks';
import { collectDefaultMetrics, Registry } from 'prom-client';
import {
  type Aggregator,
  Distribution,
  type MetricSnapshot,
  register,
  type Sample,
  Tally,
} from './instruments.js';

export const CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

const PREFIX = 'checkpoint_backend_';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const BYTES = [256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];
const RECORDS = [1, 4, 16, 64, 256, 1024, 4096];
const REQUESTS = [1, 2, 4, 8, 16, 32, 64];

/** A client that has gone before its answer; nginx's number. */
export const CLIENT_CLOSED_REQUEST = 499;

export type Refusal = 'full' | 'share' | 'timeout' | 'outage';
const REFUSALS: readonly Refusal[] = ['full', 'share', 'timeout', 'outage'];

/**
 * What a value is stored as: `delta`, a record after its base; `first`, the first one of a log; `same`, the place of an equal one; `leaf`,
 * operations where it belongs; `lost`, a request that was sent again whole, since its deltas did not fit.
 */
const STORAGE_KINDS = ['whole', 'first', 'delta', 'same', 'leaf', 'lost'] as const;
export type StorageKind = (typeof STORAGE_KINDS)[number];

/** Errors that have no SQLSTATE, since no server said them. */
export const NO_SQLSTATE = 'connection';
/** The classes that an operator watches: connection, conflict, resources, limits, operator, system. */
const SQLSTATE_CLASSES = [NO_SQLSTATE, '08', '25', '40', '53', '54', '57', '58', 'XX'];

const LOOP_SAMPLE_MS = 50;

/** What is counted about the requests of one operation. */
class OperationMetrics {
  readonly byStatus = new Map<number, { count: number; seconds: Distribution }>();
  readonly requestBytes = new Distribution(BYTES);
  readonly responseBytes = new Distribution(BYTES);

  ofStatus(status: number): { count: number; seconds: Distribution } {
    let own = this.byStatus.get(status);
    if (own === undefined)
      this.byStatus.set(status, (own = { count: 0, seconds: new Distribution(SECONDS) }));
    return own;
  }

  add(status: number, seconds: number, requestBytes: number, responseBytes: number): void {
    const own = this.ofStatus(status);
    own.count += 1;
    own.seconds.observe(seconds);
    this.requestBytes.observe(requestBytes);
    this.responseBytes.observe(responseBytes);
  }
}

/** What is counted about values that are stored as their difference to others. */
export class DeltaMetrics {
  readonly stored = new Tally<StorageKind>('kind', STORAGE_KINDS);
  /** Bytes of the values, less what is stored in their place. */
  savedBytes = 0;
  /** Whether the version was in memory that a value is read by. */
  readonly memory = new Tally<'hit' | 'miss'>('result', ['hit', 'miss']);
  /** Of a value that is read from the database. */
  readonly records = new Distribution(RECORDS);
}

/**
 * What the service counts about itself. In the way of a request there are plain numbers only, which take Prometheus's form
 * when they are asked for: prom-client's own histograms look their labels up at each value, a microsecond each.
 */
export class Metrics {
  /** Values that somebody else knows, and that are read at each scrape. */
  readonly read = {
    connections: () => 0,
    deltaMemoryBytes: () => 0,
    inflightBytes: () => 0,
    poolInUse: () => 0,
    poolIdle: () => 0,
    poolMax: () => 0,
    queueWaiting: () => 0,
    queueMax: () => 0,
  };
  requestsInFlight = 0;
  /** Checkpoints that were put below their parent: see `PutOrder`. */
  putsNotAboveParent = 0;
  readonly queueWait = new Distribution(SECONDS);
  readonly queueRefused = new Tally<Refusal>('reason', REFUSALS);
  readonly statementRequests = new Distribution(REQUESTS);
  readonly statementSeconds = new Distribution(SECONDS);
  readonly deltas = new DeltaMetrics();
  readonly databaseErrors = new Tally<string>('sqlstate_class', SQLSTATE_CLASSES);
  readonly databaseRetries = new Tally<string>('sqlstate_class', SQLSTATE_CLASSES);

  /** What a scrape gets; of one worker among several it is the sum over all. */
  scrape: () => Promise<string> = () => this.registry.metrics();

  private readonly registry = new Registry();
  private readonly operations = new Map<string, OperationMetrics>();
  private readonly loopDelay = new Distribution(SECONDS);
  private readonly loopTimer: NodeJS.Timeout;

  constructor(version: string) {
    collectDefaultMetrics({ register: this.registry });
    this.register(version);
    let due = performance.now() + LOOP_SAMPLE_MS;
    this.loopTimer = setInterval(() => {
      const now = performance.now();
      this.loopDelay.observe(Math.max(0, now - due) / 1000);
      due = now + LOOP_SAMPLE_MS;
    }, LOOP_SAMPLE_MS).unref();
  }

  /** A request was answered, or with `status` null its client has gone. `operation` has few values, as it is a label. */
  request(
    operation: string,
    status: number | null,
    milliseconds: number,
    requestBytes: number,
    responseBytes: number,
  ): void {
    const own = this.operationOf(operation);
    own.add(status ?? CLIENT_CLOSED_REQUEST, milliseconds / 1000, requestBytes, responseBytes);
  }

  /** An operation of a batch has its result: it counts as a request, without a time and a size of its own. */
  batched(operation: string, status: number): void {
    this.operationOf(operation).ofStatus(status).count += 1;
  }

  /** The values as they are now, to be added up by `sumOf`. */
  async snapshot(): Promise<MetricSnapshot[]> {
    return (await this.registry.getMetricsAsJSON()) as unknown as MetricSnapshot[];
  }

  stop(): void {
    clearInterval(this.loopTimer);
  }

  private register(version: string): void {
    this.add('build_info', 'gauge', 'The version that runs; always 1', 'first', () => [
      { labels: { version, node_version: process.version }, value: 1 },
    ]);
    this.add(
      'requests_total',
      'counter',
      'Requests by operation and status, those of a batch too; 499: the client had gone',
      'sum',
      () => this.perStatus(({ count }, labels) => [{ labels, value: count }]),
    );
    this.add(
      'request_duration_seconds',
      'histogram',
      'Time from a request to the end of its answer',
      'sum',
      () =>
        this.perStatus(({ seconds }, labels) => seconds.samples(`${PREFIX}request_duration_seconds`, labels)),
    );
    this.add('request_size_bytes', 'histogram', 'Bodies of requests as they were sent', 'sum', () =>
      this.perOperation(({ requestBytes }, labels) =>
        requestBytes.samples(`${PREFIX}request_size_bytes`, labels),
      ),
    );
    this.add('response_size_bytes', 'histogram', 'Answers as they were sent, with their headers', 'sum', () =>
      this.perOperation(({ responseBytes }, labels) =>
        responseBytes.samples(`${PREFIX}response_size_bytes`, labels),
      ),
    );
    this.gauge('requests_in_flight', 'Requests that are not answered yet', () => this.requestsInFlight);
    this.gauge('client_connections', 'Connections of clients, idle ones among them', () =>
      this.read.connections(),
    );
    this.gauge('inflight_bytes', 'Bytes of the requests and answers in flight', () =>
      this.read.inflightBytes(),
    );
    this.add('pool_connections', 'gauge', 'Connections to Postgres', 'sum', () => [
      { labels: { state: 'in_use' }, value: this.read.poolInUse() },
      { labels: { state: 'idle' }, value: this.read.poolIdle() },
    ]);
    this.gauge('pool_max_connections', 'DATABASE_POOL_MAX', () => this.read.poolMax());
    this.gauge('queue_waiting_requests', 'Requests that wait for a connection', () =>
      this.read.queueWaiting(),
    );
    this.gauge('queue_max_requests', 'QUEUE_MAX', () => this.read.queueMax());
    this.distribution('queue_wait_seconds', 'How long requests waited for a connection', this.queueWait);
    this.tally(
      'queue_refused_total',
      'Requests that got no connection: queue full, waited too long, no database',
      this.queueRefused,
    );
    this.tally(
      'blobs_stored_total',
      'Values of 2 KB or more by what they were stored as, with BLOB_STORAGE=delta',
      this.deltas.stored,
    );
    this.add(
      'delta_saved_bytes_total',
      'counter',
      'Bytes of values that were not stored again',
      'sum',
      () => [{ labels: {}, value: this.deltas.savedBytes }],
    );
    this.tally(
      'delta_memory_reads_total',
      'Values that were read by a version in memory, or had none there',
      this.deltas.memory,
    );
    this.distribution('delta_records', 'Records of a log that a value was read from', this.deltas.records);
    this.gauge(
      'delta_memory_bytes',
      'Values that were stored last, kept to store the next by their difference',
      () => this.read.deltaMemoryBytes(),
    );
    this.distribution('statement_requests', 'Requests that a statement stored for', this.statementRequests);
    this.distribution(
      'statement_duration_seconds',
      'Time of a statement or transaction that succeeded',
      this.statementSeconds,
    );
    this.tally(
      'database_errors_total',
      'Errors by class of SQLSTATE; connection: the server was not reached',
      this.databaseErrors,
    );
    this.tally(
      'database_retries_total',
      'Statements sent again, by class of the SQLSTATE before',
      this.databaseRetries,
    );
    this.add(
      'puts_not_above_parent_total',
      'counter',
      "Checkpoints whose id is not above their parent's, so that they are not the latest",
      'sum',
      () => [{ labels: {}, value: this.putsNotAboveParent }],
    );
    this.distribution(
      'event_loop_delay_seconds',
      `How late a timer of ${LOOP_SAMPLE_MS} ms fired`,
      this.loopDelay,
    );
    this.add(
      'event_loop_active_seconds_total',
      'counter',
      'Time in which the event loop was at work',
      'sum',
      () => [{ labels: {}, value: performance.eventLoopUtilization().active / 1000 }],
    );
  }

  private add(
    name: string,
    type: MetricSnapshot['type'],
    help: string,
    aggregator: Aggregator,
    values: () => Sample[],
  ): void {
    register(this.registry, { name: PREFIX + name, help, type, aggregator }, values);
  }

  private gauge(name: string, help: string, value: () => number): void {
    this.add(name, 'gauge', help, 'sum', () => [{ labels: {}, value: value() }]);
  }

  private tally(name: string, help: string, tally: Tally<string>): void {
    this.add(name, 'counter', help, 'sum', () => tally.samples());
  }

  private distribution(name: string, help: string, distribution: Distribution): void {
    this.add(name, 'histogram', help, 'sum', () => distribution.samples(PREFIX + name));
  }

  private operationOf(name: string): OperationMetrics {
    let own = this.operations.get(name);
    if (own === undefined) this.operations.set(name, (own = new OperationMetrics()));
    return own;
  }

  private perOperation(
    samples: (own: OperationMetrics, labels: { operation: string }) => Sample[],
  ): Sample[] {
    return [...this.operations].flatMap(([operation, own]) => samples(own, { operation }));
  }

  private perStatus(
    samples: (own: { count: number; seconds: Distribution }, labels: Record<string, string>) => Sample[],
  ): Sample[] {
    return this.perOperation(({ byStatus }, { operation }) =>
      [...byStatus].flatMap(([status, own]) => samples(own, { operation, status: String(status) })),
    );
  }
}
