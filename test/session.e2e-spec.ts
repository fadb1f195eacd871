import { startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase } from './support/database.js';
import { aTap } from './support/tap.js';

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
