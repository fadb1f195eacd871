import net from 'node:net';
import { type TestApp, startApp } from './support/app.js';
import { type TestDatabase, createDatabase } from './support/database.js';
import { aPut, aThread } from './support/builders.js';

/** A way to the database that a test can close and open. */
async function aGate(url: string) {
  const target = new URL(url);
  const sockets = new Set<net.Socket>();
  let open = true;
  const server = net.createServer((incoming) => {
    if (!open) {
      incoming.resetAndDestroy();
      return;
    }
    const outgoing = net.connect(Number(target.port || 5432), target.hostname);
    for (const socket of [incoming, outgoing]) {
      sockets.add(socket);
      socket
        .on('error', () => undefined)
        .on('close', () => {
          sockets.delete(socket);
          incoming.destroy();
          outgoing.destroy();
        });
    }
    incoming.pipe(outgoing).pipe(incoming);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const gate = new URL(url);
  gate.hostname = '127.0.0.1';
  gate.port = String((server.address() as net.AddressInfo).port);
  return {
    url: gate.href,
    shut: () => {
      open = false;
      for (const socket of sockets) socket.destroy();
    },
    reopen: () => {
      open = true;
    },
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

describe('when the database goes away', () => {
  let database: TestDatabase;
  let gate: Awaited<ReturnType<typeof aGate>>;
  let app: TestApp;

  const start = async (environment: Record<string, string>) => {
    database = await createDatabase();
    gate = await aGate(database.url);
    app = await startApp({ DATABASE_URL: gate.url, ...environment }, database);
  };
  afterEach(async () => {
    await app.close();
    gate.close();
    await database.drop();
  });

  it('requests wait through a short outage, and none is lost', async () => {
    await start({ OUTAGE_WAIT_MS: '20000' });
    const thread_id = aThread();
    await app.post('put', aPut({ thread_id, checkpoint_id: '0' }));
    gate.shut();
    const waiting = Array.from({ length: 30 }, (_, n) =>
      app.post('put', aPut({ thread_id, checkpoint_id: `${n + 1}` })),
    );
    expect(await app.get('/health/ready')).toMatchObject({
      status: 503,
      json: { detail: expect.stringMatching(/cannot be reached/) },
    });
    expect((await app.get('/health/live')).status).toBe(200);
    gate.reopen();
    expect((await Promise.all(waiting)).map((answer) => answer.status)).toEqual(Array(30).fill(200));
    expect((await app.post('list', { thread_id })).json).toHaveLength(31);
  });

  it('a longer one ends in 503 with Retry-After, and afterwards all is as before', async () => {
    await start({ OUTAGE_WAIT_MS: '300' });
    gate.shut();
    const answer = await app.post('put', aPut());
    expect(answer).toMatchObject({
      status: 503,
      type: 'application/problem+json; charset=utf-8',
      json: { type: '/problems/database-unavailable', detail: 'The database cannot be reached' },
    });
    expect(answer.headers['retry-after']).toBe('1');
    gate.reopen();
    expect((await app.post('put', aPut())).status).toBe(200);
  });

  it('backends that are terminated cost nobody anything', async () => {
    await start({ OUTAGE_WAIT_MS: '20000', DATABASE_POOL_MAX: '4' });
    const thread_id = aThread();
    const load = Array.from({ length: 8 }, async (_, agent) => {
      for (let n = 0; n < 20; n += 1) {
        const { status } = await app.post('put', aPut({ thread_id, checkpoint_id: `${agent}-${n}` }));
        expect(status).toBe(200);
      }
    });
    for (let n = 0; n < 5; n += 1) {
      await database.sql(
        `select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and application_name = 'checkpoint-backend'`,
      );
    }
    await Promise.all(load);
    expect((await app.post('list', { thread_id, limit: 1000 })).json).toHaveLength(160);
  });

  it('a full queue, and one that takes too long, get 503 of their own type', async () => {
    await start({
      DATABASE_POOL_MAX: '1',
      QUEUE_MAX: '1',
      QUEUE_WAIT_MS: '300',
      STATEMENT_TIMEOUT_MS: '60000',
    });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    const answers = ['0', '1', '2'].map((thread_id) => app.post('put', aPut({ thread_id })));
    const refused = await Promise.race(answers);
    expect(refused).toMatchObject({ status: 503, json: { type: '/problems/queue-full' } });
    // The second one had its place in the queue, and waited in vain.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await database.sql('rollback');
    const outcomes = (await Promise.all(answers)).map(({ status, json }) =>
      status === 200 ? 'stored' : (json as { type: string }).type,
    );
    expect(outcomes.sort()).toEqual(['/problems/queue-full', '/problems/queue-timeout', 'stored']);
  });

  it('a statement that takes too long is ended', async () => {
    await start({ STATEMENT_TIMEOUT_MS: '200' });
    await database.sql('begin');
    await database.sql('lock table checkpoints');
    expect(await app.post('get-tuple', { thread_id: 't' })).toMatchObject({
      status: 503,
      json: { type: '/problems/database-unavailable', detail: 'A statement took over 200 ms' },
    });
    await database.sql('rollback');
  });

  it('a fault of ours gets 500, and nothing of its text leaves the process', async () => {
    await start({});
    await database.sql('drop table checkpoint_blobs');
    const answer = await app.post('get-tuple', { thread_id: 't' });
    expect([answer.status, answer.json]).toEqual([
      500,
      { type: 'about:blank', status: 500, title: 'Internal Server Error' },
    ]);
  });
});
