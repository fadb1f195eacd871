import { jest } from '@jest/globals';
import pg from 'pg';
import { loadService, startApp, type TestApp } from './support/app.js';
import { aPut, aPutWrites } from './support/builders.js';
import { type PostAs, postingAs } from './support/keys.js';
import { TABLES } from './support/schema.js';

const LENGTH = 5000;
/** Rows of one table that a statement may touch: those that it answers or stores, and a few beside them. */
const BOUND = 60;

let app: TestApp;
let postAs: PostAs;
let client: pg.Client;
beforeAll(async () => {
  app = await startApp({ AUTH_MODE: 'keys' });
  postAs = postingAs(app);
  client = new pg.Client(app.database.url);
  await client.connect();
  for (const table of TABLES) await client.query(`alter table ${table} set (autovacuum_enabled = off)`);
  await client.query(
    `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
     select thread_id, '', lpad(n::text, 8, '0'), lpad((n - 1)::text, 8, '0'),
            jsonb_build_object('v', 4, 'channel_versions', jsonb_build_object('a', n::text, 'b', '1')), jsonb_build_object('step', n % 10)
       from (select 'long' as thread_id, n from generate_series(1, $1::int) as n
              union all
             select 'short ' || t, n from generate_series(1, 500) as t, generate_series(1, 10) as n) as rows`,
    [LENGTH],
  );
  // Subgraphs, newer than the rest.
  await client.query(
    `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
     select 'nested', case when n <= 1000 then '' else 'node:' || n end, lpad(n::text, 8, '0'), '{}', '{}'
       from generate_series(1, $1::int) as n`,
    [LENGTH],
  );
  await client.query(
    `insert into checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
     select chr(1) || tenant || chr(1) || 't ' || t, '', lpad(n::text, 8, '0'), '{}', '{}'
       from unnest(array['acme', 'acme-2', 'z']) as tenant, generate_series(1, 5) as t, generate_series(1, 5) as n`,
  );
  await client.query(
    `insert into checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
     select thread_id, '', 'a', (checkpoint_id::int)::text, 't', 'value' from checkpoints where thread_id <> 'nested'`,
  );
  await client.query(
    `insert into checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path)
     select thread_id, '', checkpoint_id, 'task', 0, 'a', 't', 'value', '' from checkpoints where thread_id <> 'nested'`,
  );
});
afterAll(async () => {
  await client.end();
  await app.close();
});

interface Node {
  'Node Type': string;
  'Relation Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  Plans?: Node[];
}

function nodes(node: Node): Node[] {
  return [node, ...(node.Plans ?? []).flatMap(nodes)];
}

interface Sent {
  operation: string;
  body: object;
  tenant?: string;
}

/** What the service sends to answer a request. */
async function statementsOf({
  tenant = '',
  operation,
  body,
}: Sent): Promise<{ sql: string; values: unknown[] }[]> {
  const send = jest.spyOn((await loadService()).Database.prototype, 'send');
  try {
    expect((await postAs(tenant, operation, body)).status).toBeLessThan(300);
    return send.mock.calls.map(([sql, values]) => ({ sql, values }));
  } finally {
    send.mockRestore();
  }
}

const middle = `0000${LENGTH / 2}`;
const key = { thread_id: 'long', checkpoint_id: `0000${LENGTH}` };
const REQUESTS: (Sent & { name: string })[] = [
  { name: 'get-tuple, latest', operation: 'get-tuple', body: { thread_id: 'long' } },
  { name: 'get-tuple, by id', operation: 'get-tuple', body: { thread_id: 'long', checkpoint_id: middle } },
  {
    name: 'get-tuple with sends',
    operation: 'get-tuple',
    body: { thread_id: 'long', include: ['blobs', 'pending_writes', 'pending_sends'] },
  },
  {
    name: 'put',
    operation: 'put',
    body: aPut({ ...key, blobs: [{ channel: 'a', version: '1', type: 't', blob: 'aGk=' }] }),
  },
  { name: 'put-writes', operation: 'put-writes', body: aPutWrites(key) },
  { name: 'put-writes, upsert', operation: 'put-writes', body: aPutWrites({ ...key, upsert: true }) },
  ...[{}, { checkpoint_ns: '' }].flatMap((namespace) =>
    [{}, { filter_metadata: { step: 3 } }].flatMap((filter) =>
      [{}, { before_checkpoint_id: middle }, { before_checkpoint_id: '00000030' }].map((before) => {
        const body = { ...namespace, ...filter, ...before };
        return {
          name: `list ${JSON.stringify(body)}`,
          operation: 'list',
          body: { thread_id: 'long', limit: 2, include: ['blobs', 'pending_writes'], ...body },
        };
      }),
    ),
  ),
  { name: 'get-tuple below subgraphs', operation: 'get-tuple', body: { thread_id: 'nested' } },
  {
    name: 'list below subgraphs',
    operation: 'list',
    body: { thread_id: 'nested', checkpoint_ns: '', limit: 2 },
  },
  { name: 'list of 20', operation: 'list', body: { thread_id: 'long', checkpoint_ns: '', limit: 20 } },
  { name: 'list of 20 in all namespaces', operation: 'list', body: { thread_id: 'long', limit: 20 } },
  { name: 'list of a tenant', operation: 'list', body: { limit: 2 }, tenant: 'acme' },
  { name: 'get-tuple of a tenant', operation: 'get-tuple', body: { thread_id: 't 1' }, tenant: 'acme' },
  { name: 'list of subgraphs', operation: 'list', body: { thread_id: 'nested', limit: 2 } },
  {
    name: 'delta-channel-history',
    operation: 'delta-channel-history',
    body: { thread_id: 'long', checkpoint_id: '00000010', channels: ['b'] },
  },
];

describe.each(['before ANALYZE', 'after ANALYZE'])('%s', (when) => {
  beforeAll(async () => {
    if (when === 'after ANALYZE') await client.query('analyze');
  });

  describe.each(['force_generic_plan', 'force_custom_plan'])('with %s', (mode) => {
    // Without statistics Postgres takes a filter to match next to nothing, and then reads the whole thread at once.
    const isGuessed = (body: object) => 'filter_metadata' in body && !('checkpoint_ns' in body);
    const requests = REQUESTS.filter(({ body }) => when === 'after ANALYZE' || !isGuessed(body));
    it.each(requests)('$name touches the rows that it needs', async (request) => {
      for (const { sql, values } of await statementsOf(request)) {
        await client.query('begin');
        await client.query(`set local plan_cache_mode = ${mode}`);
        const explained = await client.query<{ 'QUERY PLAN': [{ Plan: Node }] }>({
          text: `explain (analyze, format json) ${sql}`,
          values,
        });
        await client.query('rollback');
        const plan = explained.rows[0]?.['QUERY PLAN'][0].Plan as Node;
        const touched = nodes(plan)
          .filter((node) => node['Relation Name'] !== undefined || node['Node Type'].includes('Scan'))
          .map(
            (node) => (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'],
          );
        expect(Math.max(...touched)).toBeLessThanOrEqual(BOUND);
      }
    });
  });
});
