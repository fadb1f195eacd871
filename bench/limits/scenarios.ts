import zlib from 'node:zlib';

const KIB = 1024;
const MIB = 1024 * KIB;
/** The limits as they come: DOCUMENT_LIMIT_BYTES, DOCUMENT_NODES_LIMIT, BLOB_LIMIT_BYTES, ROWS_LIMIT, the bytes of a key. */
const DOCUMENT_BYTES = 16 * MIB;
const NODES = 200_000;
const BLOB = 32 * MIB;
const ROWS = 10_000;
const KEY = 2600;

export interface Request {
  operation: string;
  body: Buffer;
  encoding?: 'br';
}

export interface Scenario {
  operation: string;
  /** The request, in a few words for the table. */
  what: string;
  /** Statements that store what the requests of numbers 0 to 10 meet; `$threads` stands for their number. */
  stored?: string[];
  /** The one with number 0 is sent alone, those with 1 to 10 at once. */
  request: (n: number) => Request;
}

const request = (operation: string, body: object | string | Buffer): Request => ({
  operation,
  body: Buffer.isBuffer(body) ? body : Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
});

function packed(operation: string, text: string): Request {
  const params = { [zlib.constants.BROTLI_PARAM_QUALITY]: 5, [zlib.constants.BROTLI_PARAM_LGWIN]: 24 };
  return { operation, body: zlib.brotliCompressSync(Buffer.from(text), { params }), encoding: 'br' };
}

/** Made once, however often it is sent. */
function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

const base64 = (bytes: number) => Buffer.alloc(bytes, 'blob ').toString('base64');
const put = (n: number, more: object) => ({
  ...{ thread_id: `t${n}`, checkpoint_id: '1', checkpoint: { v: 4, channel_versions: {} }, metadata: {} },
  ...more,
});
const MANY = 4500; // bytes of a blob, of which ROWS fit into a body
const blobs = once(() => {
  const blob = base64(MANY);
  return Array.from({ length: ROWS }, (_, i) => ({ channel: `c${i}`, version: '1', type: 't', blob }));
});
const writes = once(() => {
  const blob = base64(MANY);
  return Array.from({ length: ROWS }, (_, i) => ({ task_id: 't', idx: i, channel: 'c', type: 't', blob }));
});

/** As many operations as a batch may have. */
const OPERATIONS = 256;
const batch = (operation: string, body: (at: number) => object): Request => {
  const lines = Array.from({ length: OPERATIONS }, (_, at) => [{ operation }, body(at)]).flat();
  return request('batch', lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
};

const THREADS = `(select 't' || t as thread from generate_series(0, 10) as t) as threads`;
const DOCUMENT = `'{"v":4,"channel_values":{},"channel_versions":{}}'`;
/** A thread for each request, each a chain of so many checkpoints. */
const chain = (length: number, checkpoint = DOCUMENT, metadata = `'{}'`) =>
  `insert into checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
   select thread, lpad(i::text, 8, '0'), case when i > 1 then lpad((i - 1)::text, 8, '0') end, ${checkpoint}, ${metadata}
     from ${THREADS} cross join generate_series(1, ${length}) as i`;
const blobsOf = (count: number, bytes: number, channel = `'c' || i`) =>
  `insert into checkpoint_blobs (thread_id, channel, version, type, blob)
   select thread, ${channel}, '1', 't', convert_to(repeat('blob ', ${Math.floor(bytes / 5)}), 'UTF8')
     from ${THREADS} cross join generate_series(1, ${count}) as i`;
const writesOf = (checkpoints: number, each: number, bytes: number) =>
  `insert into checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
   select thread, lpad(i::text, 8, '0'), 't', w, 'c', 't', convert_to(repeat('x', ${bytes}), 'UTF8')
     from ${THREADS} cross join generate_series(1, ${checkpoints}) as i cross join generate_series(1, ${each}) as w`;
const naming = (count: number) =>
  `jsonb_build_object('v', 4, 'channel_values', '{}'::jsonb, 'channel_versions',
     (select jsonb_object_agg('c' || k, '1') from generate_series(1, ${count}) as k))`;
const LONG = 20_000;
const longThreads = [chain(LONG), blobsOf(LONG, 200), writesOf(LONG, 1, 200)];

export const SCENARIOS: Scenario[] = [
  {
    operation: 'batch',
    what: '256 puts with a blob of 160 KiB, of one thread',
    request: (n) => {
      const blob = base64(160 * KIB);
      return batch('put', (at) =>
        put(n, { checkpoint_id: `${at}`, blobs: [{ channel: 'c', version: `${at}`, type: 't', blob }] }),
      );
    },
  },
  {
    operation: 'batch',
    what: '256 put-writes of 39 writes, of 256 threads',
    request: (n) =>
      batch('put-writes', (at) => ({
        ...{ thread_id: `t${n}-${at}`, checkpoint_id: '1', writes: writes().slice(0, 39) },
      })),
  },
  {
    operation: 'put',
    what: 'one blob of 32 MiB',
    request: (n) =>
      request('put', put(n, { blobs: [{ channel: 'c', version: '1', type: 't', blob: base64(BLOB) }] })),
  },
  {
    operation: 'put',
    what: '10,000 blobs, 60 MiB in all',
    request: (n) => request('put', put(n, { blobs: blobs() })),
  },
  {
    operation: 'put',
    what: 'a document of 15 MiB, one text',
    request: (n) => request('put', put(n, { checkpoint: { text: 'x'.repeat(DOCUMENT_BYTES - MIB) } })),
  },
  {
    operation: 'put',
    what: 'a document of 199,900 empty objects, compressed',
    request: (n) =>
      packed(
        'put',
        `{"thread_id":"t${n}","checkpoint_id":"1","checkpoint":{"a":[${'{},'.repeat(NODES - 100)}0]}}`,
      ),
  },
  {
    operation: 'put',
    what: 'metadata of 199,900 empty objects, compressed',
    request: (n) =>
      packed(
        'put',
        `{"thread_id":"t${n}","checkpoint_id":"1","checkpoint":{},"metadata":{"a":[${'{},'.repeat(NODES - 100)}0]}}`,
      ),
  },
  {
    operation: 'put',
    what: '10,000 channel_versions with long names, compressed',
    request: (n) => {
      const members = Array.from({ length: ROWS }, (_, i) => `"${`${i}-`.padEnd(1500, 'c')}":"1"`).join();
      return packed(
        'put',
        `{"thread_id":"t${n}","checkpoint_id":"1","checkpoint":{"channel_versions":{${members}}}}`,
      );
    },
  },
  {
    operation: 'put',
    what: 'arrays nested 990 deep',
    request: (n) =>
      request(
        'put',
        `{"thread_id":"t${n}","checkpoint_id":"1","checkpoint":{"a":${'['.repeat(990)}${']'.repeat(990)}}}`,
      ),
  },
  {
    operation: 'put',
    what: '199,900 numbers of 71 digits in 4 bytes each',
    request: (n) =>
      request(
        'put',
        `{"thread_id":"t${n}","checkpoint_id":"1","checkpoint":{"a":[${'1e70,'.repeat(NODES - 100)}1]}}`,
      ),
  },
  {
    operation: 'put',
    what: '10,000 faults of validation',
    request: (n) =>
      request(
        'put',
        put(n, { blobs: Array<object>(ROWS).fill({ channel: 5, version: [], type: 7, blob: '!' }) }),
      ),
  },
  {
    operation: 'put-writes',
    what: 'one write of 32 MiB',
    request: (n) =>
      request('put-writes', {
        ...{ thread_id: `t${n}`, checkpoint_id: '1' },
        writes: [{ task_id: 't', idx: 0, channel: 'c', type: 't', blob: base64(BLOB) }],
      }),
  },
  {
    operation: 'put-writes',
    what: '10,000 writes, 60 MiB in all',
    request: (n) => request('put-writes', { thread_id: `t${n}`, checkpoint_id: '1', writes: writes() }),
  },
  {
    operation: 'put-writes',
    what: '10,000 writes that replace others',
    stored: [
      `insert into checkpoint_writes (thread_id, checkpoint_id, task_id, idx, channel, type, blob)
       select thread, '1', 't', i, 'c', 't', 'x' from ${THREADS} cross join generate_series(0, ${ROWS - 1}) as i`,
    ],
    request: (n) =>
      request('put-writes', { thread_id: `t${n}`, checkpoint_id: '1', writes: writes(), upsert: true }),
  },
  {
    operation: 'get-tuple',
    what: '7 blobs of 32 MiB',
    stored: [
      chain(1, naming(7)),
      `${blobsOf(7, BLOB)} where thread = 't0'`,
      `insert into checkpoint_blobs (thread_id, channel, version, type, blob)
       select thread, channel, version, type, blob from checkpoint_blobs cross join ${THREADS} where thread <> 't0'`,
    ],
    request: (n) => request('get-tuple', { thread_id: `t${n}` }),
  },
  {
    operation: 'get-tuple',
    what: '10,000 blobs and 20,000 writes of 4 KB',
    stored: [chain(1, naming(ROWS)), blobsOf(ROWS, 4000), writesOf(1, 20_000, 4000)],
    request: (n) => request('get-tuple', { thread_id: `t${n}` }),
  },
  {
    operation: 'get-tuple',
    what: '10,000 channels without a blob',
    stored: [chain(1, naming(ROWS))],
    request: (n) => request('get-tuple', { thread_id: `t${n}` }),
  },
  {
    operation: 'get-tuple',
    what: 'include that names a part twice',
    stored: [chain(1, naming(1)), blobsOf(1, 100)],
    request: (n) => request('get-tuple', { thread_id: `t${n}`, include: ['blobs', 'blobs'] }),
  },
  {
    operation: 'list',
    what: '48 checkpoints that name one blob of 8 MiB, with blobs',
    stored: [chain(48, naming(1)), blobsOf(1, 8 * MIB)],
    request: (n) => request('list', { thread_id: `t${n}`, include: ['blobs'] }),
  },
  {
    operation: 'list',
    what: '1,000 checkpoints of 300 KB',
    stored: [
      `${chain(1000, `jsonb_build_object('v', 4, 'channel_values', jsonb_build_object('doc', repeat('x', 300000)), 'channel_versions', '{}'::jsonb)`)}
       where thread = 't0'`,
    ],
    request: () => request('list', { thread_id: 't0' }),
  },
  {
    operation: 'list',
    what: '1,000 checkpoints of 100 channels, blobs and writes',
    stored: [
      `${chain(1000, naming(100))} where thread = 't0'`,
      `${blobsOf(100, 2000)} where thread = 't0'`,
      `${writesOf(1000, 20, 200)} where thread = 't0'`,
    ],
    request: () => request('list', { thread_id: 't0', include: ['blobs', 'pending_writes'] }),
  },
  {
    operation: 'list',
    what: 'a filter of 4 arrays in an array, on metadata of 60,000',
    stored: [
      chain(
        1,
        DOCUMENT,
        `jsonb_build_object('a', (select jsonb_agg('[0]'::jsonb) || '[[1]]' from generate_series(1, 60000)))`,
      ),
    ],
    request: (n) => request('list', { thread_id: `t${n}`, filter_metadata: { a: [[1], [2], [3], [4]] } }),
  },
  {
    operation: 'list',
    what: 'a filter that nothing meets, on 100,000 checkpoints',
    stored: [`${chain(100_000)} where thread = 't0'`],
    request: () => request('list', { thread_id: 't0', filter_metadata: { a: 1 } }),
  },
  {
    operation: 'list',
    what: 'every thread, of 220,000 checkpoints',
    stored: [chain(LONG)],
    request: () => request('list', {}),
  },
  {
    operation: 'delete-thread',
    what: '20,000 checkpoints, blobs and writes',
    stored: longThreads,
    request: (n) => request('delete-thread', { thread_id: `t${n}` }),
  },
  {
    operation: 'copy-thread',
    what: '20,000 checkpoints, blobs and writes',
    stored: longThreads,
    request: (n) => request('copy-thread', { source_thread_id: `t${n}`, target_thread_id: `copy${n}` }),
  },
  {
    operation: 'copy-thread',
    what: '7 blobs of 32 MiB',
    stored: [chain(1, naming(7)), `${blobsOf(7, BLOB)} where thread = 't0'`],
    request: (n) => request('copy-thread', { source_thread_id: 't0', target_thread_id: `copy${n}` }),
  },
  {
    operation: 'prune',
    what: 'a thread of 20,000 checkpoints, blobs and writes',
    stored: longThreads,
    request: (n) => request('prune', { thread_ids: [`t${n}`], strategy: 'keep_latest' }),
  },
  {
    operation: 'prune',
    what: '10,000 threads of two checkpoints',
    stored: [
      `insert into checkpoints (thread_id, checkpoint_id, checkpoint, metadata)
       select thread || '-' || i, c::text, ${DOCUMENT}, '{}'
         from ${THREADS} cross join generate_series(1, ${ROWS}) as i cross join generate_series(1, 2) as c`,
    ],
    request: (n) =>
      request('prune', {
        thread_ids: Array.from({ length: ROWS }, (_, i) => `t${n}-${i + 1}`),
        strategy: 'keep_latest',
      }),
  },
  {
    operation: 'prune',
    what: '2,000 checkpoints whose metadata names 256 delta channels',
    stored: [
      chain(
        2000,
        DOCUMENT,
        `jsonb_build_object('counters_since_delta_snapshot', (select jsonb_object_agg('c' || k, 1) from generate_series(1, 256) as k))`,
      ),
    ],
    request: (n) => request('prune', { thread_ids: [`t${n}`], strategy: 'keep_latest' }),
  },
  {
    operation: 'delete-for-runs',
    what: 'one run in 20,000 threads',
    stored: [
      `insert into checkpoints (thread_id, checkpoint_id, checkpoint, metadata)
       select thread || '-' || i, '1', ${DOCUMENT}, jsonb_build_object('run_id', 'run-' || thread)
         from ${THREADS} cross join generate_series(1, ${LONG}) as i`,
    ],
    request: (n) => request('delete-for-runs', { run_ids: [`run-t${n}`] }),
  },
  {
    operation: 'delete-for-runs',
    what: '10,000 runs, of which there are none',
    stored: [chain(LONG)],
    request: (n) =>
      request('delete-for-runs', { run_ids: Array.from({ length: ROWS }, (_, i) => `run-${n}-${i}`) }),
  },
  {
    operation: 'delta-channel-history',
    what: 'a name of 65,536 letters along 300 checkpoints, compressed',
    stored: [chain(300)],
    request: (n) =>
      packed(
        'delta-channel-history',
        JSON.stringify({ thread_id: `t${n}`, channels: ['x'.repeat(64 * KIB)] }),
      ),
  },
  {
    operation: 'delta-channel-history',
    what: '256 channels along 5,000 checkpoints',
    stored: [chain(5000)],
    request: (n) =>
      request('delta-channel-history', {
        thread_id: `t${n}`,
        channels: Array.from({ length: 256 }, (_, i) => `c${i}`),
      }),
  },
  {
    operation: 'delta-channel-history',
    what: '5,000 checkpoints with 10 writes of 2 KB each',
    stored: [`${chain(5000)} where thread = 't0'`, `${writesOf(5000, 10, 2000)} where thread = 't0'`],
    request: () => request('delta-channel-history', { thread_id: 't0', channels: ['c'] }),
  },
  {
    operation: 'get-tuple',
    what: 'the longest id',
    stored: [],
    request: (n) => request('get-tuple', { thread_id: `${n}`.padEnd(KEY - 2, 'x') }),
  },
];
