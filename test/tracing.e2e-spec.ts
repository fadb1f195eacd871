import { randomBytes } from 'node:crypto';
import { itMerging } from './support/app.js';
import { aGate, HELD_UP } from './support/gate.js';
import { aPut, aThread, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { type OtlpReceiver, startOtlpReceiver } from './support/otlp-receiver.js';
import { cleanUp, Service, until } from './support/process.js';
import { scrapeOf } from './support/scrape.js';

const SLOW_MS = 90_000;
const SERVER = 2;
const CLIENT = 3;
const ERROR = 2;

let database: TestDatabase;
let collector: OtlpReceiver;
let service: Service;

const start = async (environment: Record<string, string> = {}) => {
  service = await Service.start({
    DATABASE_URL: database.url,
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
    OTEL_BSP_SCHEDULE_DELAY: '50',
    ...environment,
  }).ready();
};
beforeEach(async () => {
  database = await createDatabase();
  collector = await startOtlpReceiver();
});
afterEach(async () => {
  await cleanUp();
  await collector.close();
  await database.drop();
}, SLOW_MS);

/** What a caller that is traced sends along. */
function aCaller({ sampled = true } = {}) {
  const [traceId, spanId] = [randomBytes(16).toString('hex'), randomBytes(8).toString('hex')];
  return { traceId, spanId, traceparent: `00-${traceId}-${spanId}-0${sampled ? 1 : 0}` };
}

async function post(operation: string, body: object, headers: Record<string, string> = {}): Promise<number> {
  const answer = await fetch(`${service.url}/checkpoints/${operation}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  await answer.text();
  return answer.status;
}

/** The trace, once the span of its request has arrived, which is the last to end; the first span is that one. */
async function traceOf(traceId: string) {
  const own = () => collector.spans.filter((span) => span.traceId === traceId);
  await until('the trace has arrived', () => own().some(({ kind }) => kind === SERVER));
  const request = own().find(({ kind }) => kind === SERVER)!;
  const children = own().filter((span) => span !== request);
  return { request, children, child: (name: string) => children.find((span) => span.name === name)! };
}

const waiting = async (count: number) => {
  await until('they wait in the queue', async () => {
    const { value } = scrapeOf(await (await fetch(`${service.url}/metrics`)).text());
    return value('queue_waiting_requests') === count;
  });
};

/** Of each statement of the service that waits for a lock. */
const locked = async (what: string) => {
  await database.sql('select pg_stat_clear_snapshot()'); // a transaction keeps what it has seen
  return database.sql(
    `${what} from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
};

describe.each(['true', 'false'])('a request that is traced, with FAST_PATH=%s', (FAST_PATH) => {
  it(
    "is a span in the caller's trace, with spans for the queue, the statement and the answer",
    async () => {
      await start({
        FAST_PATH,
        OTEL_SERVICE_NAME: 'checkpoints',
        OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test',
      });
      const caller = aCaller();
      const thread_id = aThread();
      const body = aPut({
        thread_id,
        checkpoint_ns: 'inner',
        checkpoint_id: 'c-1',
        checkpoint: { secret: 'S3CRET' },
        blobs: [{ channel: 'a', version: '1', type: 't', blob: base64('S3CRET') }],
      });
      const headers = { traceparent: caller.traceparent, 'x-request-id': 'r-1' };
      expect(await post('put', body, headers)).toBe(200);

      const { request, children, child } = await traceOf(caller.traceId);
      expect(request).toMatchObject({
        parentSpanId: caller.spanId,
        name: 'POST /checkpoints/put',
        attributes: {
          'http.request.method': 'POST',
          'http.route': '/checkpoints/put',
          'http.response.status_code': 200,
          'checkpoint_backend.operation': 'put',
          'checkpoint_backend.request_id': 'r-1',
          'langgraph.thread_id': thread_id,
          'langgraph.checkpoint_ns': 'inner',
          'langgraph.checkpoint_id': 'c-1',
        },
        status: 0,
        resource: { 'service.name': 'checkpoints', 'deployment.environment.name': 'test' },
      });
      expect(children.map(({ name }) => name).sort()).toEqual(['postgresql', 'queue', 'serialize']);
      for (const span of children) {
        expect(span.parentSpanId).toBe(request.spanId);
        expect(span.start).toBeGreaterThanOrEqual(request.start);
        expect(span.end).toBeLessThanOrEqual(request.end);
      }
      const statement = child('postgresql');
      expect(statement).toMatchObject({ kind: CLIENT, attributes: { 'db.system.name': 'postgresql' } });
      expect(statement.attributes).not.toHaveProperty('db.operation.batch.size');
      expect(child('queue').end - statement.start).toBeLessThan(1_000_000_000n);
      expect(collector.requests[0]).toBe('/v1/traces application/json');
      expect(collector.text()).not.toMatch(new RegExp(`S3CRET|${base64('S3CRET')}`));
    },
    SLOW_MS,
  );

  it(
    'keeps to its own trace beside others',
    async () => {
      await start({ FAST_PATH, DATABASE_POOL_MAX: '2' });
      const callers = Array.from({ length: 12 }, () => aCaller());
      const operations = ['put', 'get-tuple', 'prune'];
      await Promise.all(
        callers.map(({ traceId, traceparent }, n) => {
          const thread = n % 3 === 2 ? { thread_ids: [traceId], strategy: 'delete' } : {};
          return post(
            operations[n % 3]!,
            { ...aPut({ thread_id: traceId }), ...thread },
            {
              traceparent,
            },
          );
        }),
      );
      for (const [n, { traceId, spanId }] of callers.entries()) {
        const { request, children } = await traceOf(traceId);
        expect(request).toMatchObject({
          parentSpanId: spanId,
          name: `POST /checkpoints/${operations[n % 3]}`,
        });
        if (n % 3 !== 2) expect(request.attributes['langgraph.thread_id']).toBe(traceId);
        expect(children.map(({ name }) => name).sort()).toEqual(['postgresql', 'queue', 'serialize']);
        expect(children.every(({ parentSpanId }) => parentSpanId === request.spanId)).toBe(true);
      }
    },
    SLOW_MS,
  );
});

itMerging(
  'of a statement that requests share each has a span of its own, and they are linked',
  async () => {
    await start({ DATABASE_POOL_MAX: '2' });
    const gate = await aGate(database);
    await gate.close();
    const first = [post('put', aPut({ thread_id: 'a' })), post('put', aPut({ thread_id: 'b' }))];
    const heldUp = async () => (await database.sql(`select ${HELD_UP}`)).length;
    await until('they are held up', async () => (await heldUp()) === 2);
    const callers = Array.from({ length: 5 }, () => aCaller());
    const answers = callers.map(({ traceparent, traceId }) =>
      post('put', aPut({ thread_id: traceId }), { traceparent }),
    );
    await waiting(5);
    await gate.open();
    expect(new Set(await Promise.all([...first, ...answers]))).toEqual(new Set([200]));

    const traces = await Promise.all(callers.map(({ traceId }) => traceOf(traceId)));
    const statements = traces.map(({ child }) => child('postgresql'));
    for (const [n, { request }] of traces.entries()) expect(statements[n]!.parentSpanId).toBe(request.spanId);
    expect(statements.map(({ attributes }) => attributes['db.operation.batch.size'])).toEqual(
      Array(5).fill(5),
    );
    const leaders = statements.filter(({ links }) => links.length === 0);
    expect(leaders).toHaveLength(1);
    const { traceId, spanId } = leaders[0]!;
    const others = statements.filter((span) => span !== leaders[0]);
    expect(others.map(({ links }) => links)).toEqual(Array(4).fill([{ traceId, spanId }]));
    for (const { child } of traces) {
      expect(child('queue').end - child('queue').start).toBeGreaterThan(0n);
      expect(child('queue').end).toBeLessThan(child('postgresql').end);
    }
  },
  SLOW_MS,
);

it(
  'shows what was sent again, and what waited in vain',
  async () => {
    await start({ DATABASE_POOL_MAX: '1', QUEUE_WAIT_MS: '1000' });
    const [again, late] = [aCaller(), aCaller()];
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const sentAgain = post('get-tuple', { thread_id: 't' }, { traceparent: again.traceparent });
    const end = 'select pg_terminate_backend(pid)';
    await until('a statement was ended', async () => (await locked(end)).length > 0);
    await until('it was sent again', async () => (await locked('select 1')).length > 0);
    // The outage is over only when a statement has succeeded, and until then nobody is given up.
    await database.sql('rollback');
    expect(await sentAgain).toBe(200);
    expect((await traceOf(again.traceId)).child('postgresql').events).toEqual([
      { name: 'retry', attributes: { 'error.type': '57P01', 'checkpoint_backend.wait_ms': 50 } },
    ]);

    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const blocked = post('get-tuple', { thread_id: 't' });
    await until('it waits for the lock', async () => (await locked('select 1')).length > 0);
    expect(await post('get-tuple', { thread_id: 't' }, { traceparent: late.traceparent })).toBe(503);
    await database.sql('rollback');
    expect(await blocked).toBe(200);
    const { request, children } = await traceOf(late.traceId);
    expect(request).toMatchObject({ status: ERROR, attributes: { 'http.response.status_code': 503 } });
    expect(children).toMatchObject([
      { name: 'queue', status: ERROR, attributes: { 'error.type': 'queue-timeout' } },
    ]);
  },
  SLOW_MS,
);

it.each<{ what: string; environment: Record<string, string>; sampled: boolean }>([
  { what: 'the caller does not sample it', environment: {}, sampled: false },
  { what: 'OTEL_SDK_DISABLED', environment: { OTEL_SDK_DISABLED: 'true' }, sampled: true },
  { what: 'OTEL_TRACES_SAMPLER', environment: { OTEL_TRACES_SAMPLER: 'always_off' }, sampled: true },
])(
  'nothing is sent: $what',
  async ({ environment, sampled }) => {
    await start(environment);
    const { traceparent } = aCaller({ sampled });
    expect(await post('put', aPut(), { traceparent })).toBe(200);
    expect(await service.stop()).toBe(0);
    expect(collector.spans.filter(({ name }) => name.includes('put'))).toEqual([]);
  },
  SLOW_MS,
);

it(
  'what is not sent yet is sent at the stop, as protobuf unless told otherwise',
  async () => {
    await start({ OTEL_BSP_SCHEDULE_DELAY: '600000', OTEL_EXPORTER_OTLP_PROTOCOL: '' });
    expect(await post('put', aPut())).toBe(200);
    expect(collector.requests).toEqual([]);
    expect(await service.stop()).toBe(0);
    expect(collector.requests).toEqual(['/v1/traces application/x-protobuf']);
  },
  SLOW_MS,
);

it(
  'a collector that is away costs requests nothing',
  async () => {
    await start({ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9', OTEL_EXPORTER_OTLP_TIMEOUT: '1000' });
    expect(await post('put', aPut())).toBe(200);
    expect(await service.stop()).toBe(0);
  },
  SLOW_MS,
);
