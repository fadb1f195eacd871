/** What a real agent said, from the capture of LangGraph agents that the tests replay; used by Swagger UI. */
const THREAD = 'capture-fanout-1';
const CHECKPOINT_ID = '1f1e669a-01c2-640d-bfff-e6b9f8ea91f8';
const TASK_ID = 'ff81eea9-609e-3607-4251-fe2bde374cac';
const TASK_PATH = '~__pregel_pull, __start__';

const KEY = { thread_id: THREAD, checkpoint_ns: '', checkpoint_id: CHECKPOINT_ID };
const CHECKPOINT = {
  v: 4,
  ts: '2026-11-22T11:41:15.734926+00:00',
  id: CHECKPOINT_ID,
  channel_values: {},
  channel_versions: { __start__: '00000000000000000000000000000001.0.2972639683122691' },
  versions_seen: { __input__: {} },
  updated_channels: ['__start__'],
};
const METADATA = { source: 'input', step: -1, parents: {}, run_id: 'run-1', team: 'blue' };
const BLOB = {
  channel: '__start__',
  version: '00000000000000000000000000000001.0.2972639683122691',
  type: 'msgpack',
  blob: 'gqVpdGVtc5MBAgOjb3V0kA==',
};
const WRITES = [
  { task_id: TASK_ID, idx: 0, channel: 'items', type: 'msgpack', blob: 'kwECAw==' },
  { task_id: TASK_ID, idx: 1, channel: 'out', type: 'msgpack', blob: 'kA==' },
  { task_id: TASK_ID, idx: 2, channel: 'branch:to:plan', type: 'null', blob: '' },
];
const LISTED = { ...KEY, parent_checkpoint_id: null, checkpoint: CHECKPOINT, metadata: METADATA };

const PUT = { ...KEY, parent_checkpoint_id: null, checkpoint: CHECKPOINT, metadata: METADATA, blobs: [BLOB] };
const PUT_WRITES = {
  ...KEY,
  writes: WRITES.map((write) => ({ ...write, task_path: TASK_PATH })),
  upsert: false,
};

export const EXAMPLES = {
  getTuple: { thread_id: THREAD, checkpoint_ns: '', checkpoint_id: null },
  put: PUT,
  putWrites: PUT_WRITES,
  batch: [{ operation: 'put' }, PUT, { operation: 'put-writes' }, PUT_WRITES]
    .map((line) => `${JSON.stringify(line)}\n`)
    .join(''),
  batched: { results: [{ status: 200, answer: KEY }, { status: 204 }] },
  list: { thread_id: THREAD, filter_metadata: { source: 'input' }, limit: 10 },
  deleteThread: { thread_id: THREAD },
  copyThread: { source_thread_id: THREAD, target_thread_id: `${THREAD}-copy` },
  deleteForRuns: { run_ids: ['run-1'] },
  prune: { thread_ids: [THREAD], strategy: 'keep_latest' },
  deltaChannelHistory: { thread_id: THREAD, checkpoint_ns: '', checkpoint_id: null, channels: ['items'] },
  histories: { items: { writes: [], seed: { type: 'msgpack', blob: 'kwECAw==' } } },
  key: KEY,
  tuple: { ...LISTED, blobs: [BLOB], pending_writes: WRITES },
  listed: [LISTED],
};
