import type { CheckpointTuple } from '@langchain/langgraph-checkpoint';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import { type TestApp, startApp } from './support/app.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { ask, listBySaver, resume } from './support/graph.js';
import {
  PYTHON_REQUESTS,
  PYTHON_THREADS,
  pythonSetup,
  readAsPythonSaver,
  storeAsPythonSaver,
} from './support/python-saver.js';
import { TABLES } from './support/schema.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

/** Every row of the thread as text, without the thread's name. */
async function rowsOf({ sql }: TestDatabase, thread: string): Promise<string[]> {
  const rows = await sql<{ row: string }>(
    TABLES.map((table) => {
      return `select '${table} ' || (to_jsonb(t) - 'thread_id')::text as row from ${table} t where thread_id = $1`;
    }).join(' union all ') + ' order by 1',
    [thread],
  );
  return rows.map(({ row }) => row);
}

describe('the JavaScript PostgresSaver', () => {
  let saver: PostgresSaver;
  beforeAll(async () => {
    saver = PostgresSaver.fromConnString(app.database.url);
    for (const thread of ['waiting', 'finished']) await ask(saver, thread);
    await resume(saver, 'finished');
  });
  afterAll(() => saver.end());

  /** Reads a thread through HTTP and stores it, through HTTP, as another one. */
  async function copy(source: string, target: string): Promise<void> {
    const { json } = await app.post('list', { thread_id: source, include: ['blobs', 'pending_writes'] });
    for (const { pending_writes: writes, ...tuple } of (
      json as { pending_writes: object[] }[]
    ).toReversed()) {
      const statuses = [
        (await app.post('put', { ...tuple, thread_id: target })).status,
        (await app.post('put-writes', { ...tuple, thread_id: target, writes })).status,
      ];
      expect(statuses).toEqual([200, 204]);
    }
  }

  function renamed(tuple: CheckpointTuple, thread: string): CheckpointTuple {
    const rename = ({ configurable }: CheckpointTuple['config']) => ({
      configurable: { ...configurable, thread_id: thread },
    });
    const { config, parentConfig } = tuple;
    return { ...tuple, config: rename(config), parentConfig: parentConfig && rename(parentConfig) };
  }

  it.each(['waiting', 'finished'])('reads what HTTP stored as if it had stored it: %s', async (thread) => {
    const target = `${thread}-read`;
    await copy(thread, target);

    const stored = await listBySaver(saver, thread);
    const namespaces = new Set(stored.map(({ config }) => config.configurable?.checkpoint_ns as string));
    expect(namespaces.size).toBe(2);
    expect(await listBySaver(saver, target)).toStrictEqual(stored.map((tuple) => renamed(tuple, target)));
    for (const { config } of stored) {
      const wanted = { configurable: { ...config.configurable, thread_id: target } };
      expect(await saver.getTuple(wanted)).toStrictEqual(renamed((await saver.getTuple(config))!, target));
    }
    for (const checkpoint_ns of namespaces) {
      const [known, found] = await Promise.all(
        [thread, target].map((thread_id) => saver.getTuple({ configurable: { thread_id, checkpoint_ns } })),
      );
      expect(found).toStrictEqual(renamed(known!, target));
    }
    expect(await rowsOf(app.database, target)).toEqual(await rowsOf(app.database, thread));
  });

  it('lets an agent go on in a thread that HTTP stored', async () => {
    await copy('waiting', 'waiting-resumed');
    expect(await resume(saver, 'waiting-resumed')).toContain('(yes)');
    const { json } = await app.post('get-tuple', { thread_id: 'waiting-resumed' });
    const approval = (json.blobs as { channel: string; blob: string }[]).find(
      (b) => b.channel === 'approval',
    );
    expect(Buffer.from(approval?.blob ?? '', 'base64').toString()).toBe('"yes"');
  });

  it('and HTTP see what the other deleted', async () => {
    await copy('waiting', 'deleted-by-http');
    await copy('waiting', 'deleted-by-saver');
    await app.post('delete-thread', { thread_id: 'deleted-by-http' });
    expect(await listBySaver(saver, 'deleted-by-http')).toEqual([]);
    expect(await rowsOf(app.database, 'deleted-by-http')).toEqual([]);
    expect((await app.post('get-tuple', { thread_id: 'deleted-by-saver' })).json).not.toBeNull();
    await saver.deleteThread('deleted-by-saver');
    expect((await app.post('get-tuple', { thread_id: 'deleted-by-saver' })).json).toBeNull();
    expect((await listBySaver(saver, 'waiting')).length).toBeGreaterThan(0);
  });
});

describe('the Python PostgresSaver', () => {
  it('finds the rows that it would have stored itself', async () => {
    const own = await createDatabase({ like: 'empty' });
    try {
      await pythonSetup(own.sql);
      await storeAsPythonSaver(own.sql, 9);
      for (const { operation, body } of PYTHON_REQUESTS) {
        expect((await app.post(operation, body)).status).toBe(operation === 'put' ? 200 : 204);
      }
      for (const thread of PYTHON_THREADS) {
        expect(await rowsOf(app.database, thread)).toEqual(await rowsOf(own, thread));
        const known = await readAsPythonSaver(own.sql, thread);
        expect(known.length).toBeGreaterThan(5);
        expect(await readAsPythonSaver(app.database.sql, thread)).toEqual(known);
      }
    } finally {
      await own.drop();
    }
  });
});
