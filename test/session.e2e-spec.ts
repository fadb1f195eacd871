import net from 'node:net';
import { startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';

/** What Postgres is asked, read on its way: the SQL of every simple query and of every statement that is parsed. */
async function aTap(target: URL) {
  const statements: string[] = [];
  const server = net.createServer((incoming) => {
    const outgoing = net.connect(Number(target.port), target.hostname);
    for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
    incoming.pipe(outgoing).pipe(incoming);
    let started = false;
    let rest = Buffer.alloc(0);
    incoming.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      for (;;) {
        // The first message has no type.
        const head = started ? 1 : 0;
        if (rest.length < head + 4 || rest.length < head + rest.readUInt32BE(head)) return;
        const type = started ? String.fromCharCode(rest[0] ?? 0) : '';
        const [end, parts] = [head + rest.readUInt32BE(head), rest.toString('utf8', head + 4).split('\0')];
        if (type === 'Q') statements.push(parts[0] ?? '');
        if (type === 'P') statements.push(parts[1] ?? '');
        rest = rest.subarray(end);
        started = true;
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = Object.assign(new URL(target), {
    hostname: '127.0.0.1',
    port: String((server.address() as net.AddressInfo).port),
  });
  return { url: url.href, statements, close: () => server.close() };
}

/** What would outlive its transaction on a connection that a pooler gives to others next. */
const LEFT_BEHIND = [
  /(^|;)\s*set\s+(?!local\b|transaction\b)/i,
  /set_config\s*\((?!'[^']*',\s*'[^']*',\s*true\s*\))/i,
  /pg_(try_)?advisory_lock/i,
  /(^|;)\s*(listen|load|prepare|declare|discard|reset|create\s+temp)/i,
];

it('leaves nothing behind on a connection', async () => {
  const database = await createDatabase();
  const tap = await aTap(new URL(database.url));
  const app = await startApp({ DATABASE_URL: tap.url }, database);
  const [thread_id, other] = [aThread(), aThread()];
  const blobs = [{ channel: 'messages', version: '1', type: 'msgpack', blob: base64('blob') }];
  const checkpoint = { v: 3, channel_versions: { messages: '1' } };
  const requests: [string, object][] = [
    ['put', aPut({ thread_id, checkpoint, blobs, metadata: { run_id: thread_id } })],
    ['put', aPut({ thread_id, checkpoint_id: 'checkpoint-2', parent_checkpoint_id: 'checkpoint-1' })],
    ...[true, false].map((upsert): [string, object] => [
      'put-writes',
      aPutWrites({ thread_id, writes: [aWrite()], upsert }),
    ]),
    ['get-tuple', { thread_id, include: ['blobs', 'pending_writes', 'pending_sends'] }],
    ['list', { thread_id, filter_metadata: { run_id: thread_id } }],
    ['list', { limit: 1 }],
    ['delta-channel-history', { thread_id, channels: ['messages'] }],
    ['copy-thread', { source_thread_id: thread_id, target_thread_id: other }],
    ['prune', { thread_ids: [other], strategy: 'keep_latest' }],
    ['prune', { thread_ids: [other], strategy: 'delete' }],
    ['delete-for-runs', { run_ids: [thread_id] }],
    ['delete-thread', { thread_id }],
  ];
  for (const [operation, body] of requests) {
    expect([operation, Math.trunc((await app.post(operation, body)).status / 100)]).toEqual([operation, 2]);
  }
  expect((await app.get('/health/ready')).status).toBe(200);
  const { statements } = tap;
  // It sees what there is to see: a store, a read, the lock of a clean-up, a transaction, a probe.
  for (const seen of [
    /insert into/,
    /jsonb_each_text/,
    /pg_advisory_xact_lock/,
    /^begin|^start transaction/i,
    /pg_is_in_recovery/,
  ]) {
    expect(statements.some((sql) => seen.test(sql))).toBe(true);
  }
  expect(statements.filter((sql) => LEFT_BEHIND.some((pattern) => pattern.test(sql)))).toEqual([]);
  await app.close();
  tap.close();
  await database.drop();
});
