import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { type Answer, type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { aKey, type PostAs, postingAs } from './support/keys.js';
import { TABLES } from './support/schema.js';

/** The default tenant, and some whose names could be taken for each other's. */
const TENANTS = ['', 'acme', 'acme.eu', 'acme-2', 'z'];
/** The longest name, see docs/how-to/tenants.md. */
const LONG = `t${'x'.repeat(62)}`;

describe('tenants', () => {
  let app: TestApp;
  let postAs: PostAs;
  beforeAll(async () => {
    app = await startApp({ AUTH_MODE: 'keys' });
    postAs = postingAs(app);
  });
  afterAll(() => app.close());

  const inEach = <T>(work: (tenant: string) => Promise<T>) => Promise.all(TENANTS.map(work));

  /** Everything that a tenant has, as the tables have it. */
  async function rowsOf(tenant: string): Promise<unknown[]> {
    const isOwn = (id: unknown) =>
      tenant === '' ? !String(id).startsWith('\u0001') : String(id).startsWith(`\u0001${tenant}\u0001`);
    const rows: unknown[] = [];
    for (const table of TABLES) {
      const stored = await app.database.sql(`select t::text as row, thread_id from ${table} t order by 1`);
      rows.push(...stored.filter((row) => isOwn(row.thread_id)).map(({ row }) => row));
    }
    return rows;
  }

  /** A thread of three checkpoints, each with a blob and a write, in which every value is the tenant's own. */
  async function aHistory(tenant: string, thread_id: string): Promise<void> {
    for (const n of [1, 2, 3]) {
      const key = { thread_id, checkpoint_id: `${n}` };
      const checkpoint = { v: 4, of: tenant, channel_versions: { messages: `${n}` } };
      const blob = { channel: 'messages', version: `${n}`, type: 't', blob: base64(`${tenant} ${n}`) };
      const put = await postAs(
        tenant,
        'put',
        aPut({
          ...key,
          parent_checkpoint_id: n === 1 ? null : `${n - 1}`,
          checkpoint,
          metadata: { run_id: `run-${n}` },
          blobs: [blob],
        }),
      );
      expect(put.json).toEqual({ ...key, checkpoint_ns: '' });
      const writes = [aWrite({ channel: 'log', blob: base64(`${tenant} ${n}`) })];
      expect((await postAs(tenant, 'put-writes', aPutWrites({ ...key, writes }))).status).toBe(204);
    }
  }

  it('read what they stored themselves, with the same ids at once', async () => {
    const thread_id = aThread();
    await inEach((tenant) => aHistory(tenant, thread_id));
    await inEach(async (tenant) => {
      const own = base64(`${tenant} 3`);
      const tuple = await postAs(tenant, 'get-tuple', { thread_id });
      expect(tuple.json).toMatchObject({
        thread_id,
        checkpoint_id: '3',
        checkpoint: { of: tenant },
        blobs: [{ blob: own }],
        pending_writes: [{ blob: own }],
      });
      expect(tuple.json.pending_writes).toHaveLength(1);
      const list = await postAs(tenant, 'list', { thread_id, include: ['blobs', 'pending_writes'] });
      expect(
        list.json.map((item: { thread_id: string; blobs: { blob: string }[] }) => [
          item.thread_id,
          item.blobs[0]?.blob,
        ]),
      ).toEqual([3, 2, 1].map((n) => [thread_id, base64(`${tenant} ${n}`)]));
      const history = await postAs(tenant, 'delta-channel-history', {
        thread_id,
        channels: ['log', 'messages'],
      });
      expect(history.json).toMatchObject({
        log: { writes: [1, 2].map((n) => ({ blob: base64(`${tenant} ${n}`) })) },
        messages: { seed: { blob: base64(`${tenant} 2`) } },
      });
    });
  });

  it('keep apart what shares a statement', async () => {
    const thread_id = aThread();
    const requests = Array.from({ length: 40 }, (_, n) => n).flatMap((n) =>
      TENANTS.map((tenant) => ({ tenant, n, blob: base64(`${tenant} ${n}`) })),
    );
    const stored = await Promise.all(
      requests.map(({ tenant, n, blob }) =>
        postAs(
          tenant,
          'put-writes',
          aPutWrites({ thread_id, checkpoint_id: `${n % 4}`, writes: [aWrite({ task_id: `${n}`, blob })] }),
        ),
      ),
    );
    expect(stored.map(({ status }) => status)).toEqual(requests.map(() => 204));
    await inEach(async (tenant) => {
      for (const checkpoint_id of ['0', '1', '2', '3'])
        await postAs(tenant, 'put', aPut({ thread_id, checkpoint_id }));
    });
    const read = await Promise.all(
      requests.map(async ({ tenant, n, blob }) => {
        const tuple = await postAs(tenant, 'get-tuple', { thread_id, checkpoint_id: `${n % 4}` });
        const writes = tuple.json.pending_writes as { task_id: string; blob: string }[];
        return writes.length === 10 && writes.find(({ task_id }) => task_id === `${n}`)?.blob === blob;
      }),
    );
    expect(read).not.toContain(false);
  });

  describe('have threads alone', () => {
    const [one, two] = [aThread(), aThread()];
    beforeEach(() =>
      inEach(async (tenant) => {
        await aHistory(tenant, one);
        await aHistory(tenant, two);
      }),
    );

    it.each<[operation: string, body: object, left: number]>([
      ['delete-thread', { thread_id: one }, 9],
      ['prune', { thread_ids: [one, two], strategy: 'keep_latest' }, 6],
      ['prune', { thread_ids: [one, two], strategy: 'delete' }, 0],
      ['delete-for-runs', { run_ids: ['run-1', 'run-3'] }, 6],
      ['copy-thread', { source_thread_id: one, target_thread_id: 'copy' }, 27],
    ])('%s %j touches no other tenant', async (operation, body, left) => {
      for (const tenant of TENANTS) {
        for (const { thread_id } of (await postAs(tenant, 'list', {})).json as { thread_id: string }[])
          if (thread_id !== one && thread_id !== two) await postAs(tenant, 'delete-thread', { thread_id });
      }
      for (const tenant of TENANTS) {
        const others = TENANTS.filter((other) => other !== tenant);
        const before = await Promise.all(others.map(rowsOf));
        expect((await postAs(tenant, operation, body)).status).toBe(204);
        expect(await Promise.all(others.map(rowsOf))).toEqual(before);
        expect(await rowsOf(tenant)).toHaveLength(left);
      }
    });

    it('list them all, page by page, without another tenant’s', async () => {
      await inEach(async (tenant) => {
        const everything = (await postAs(tenant, 'list', {})).json as { checkpoint: { of: string } }[];
        expect(everything.length).toBeGreaterThanOrEqual(6);
        expect(everything.filter(({ checkpoint }) => checkpoint.of !== tenant)).toEqual([]);
        const paged: unknown[] = [];
        for (let cursor: string | undefined; paged.length === 0 || cursor !== undefined;) {
          const page = await postAs(tenant, 'list', { limit: 1, cursor });
          paged.push(...page.json);
          cursor = page.headers['x-next-cursor'];
          expect(Buffer.from(cursor ?? '', 'base64url').toString()).not.toContain('u0001');
        }
        expect(paged).toEqual(everything);
      });
    });

    it('are shown none but their own by the cursor of another', async () => {
      const first = await postAs('acme', 'list', { limit: 1 });
      const cursor = first.headers['x-next-cursor'];
      for (const tenant of TENANTS) {
        const rest = (await postAs(tenant, 'list', { cursor })).json as { checkpoint: { of: string } }[];
        expect(rest.length).toBeGreaterThan(0);
        expect(rest.filter(({ checkpoint }) => checkpoint.of !== tenant)).toEqual([]);
      }
    });

    it('cannot reach another’s by an id or a cursor that looks like a stored one', async () => {
      const stored = `\u0001acme\u0001${one}`;
      const cursor = Buffer.from(JSON.stringify([stored, '', '9'])).toString('base64url');
      const key = { thread_id: stored, checkpoint_id: '1' };
      for (const tenant of TENANTS) {
        const attempts: [string, object, string][] = [
          ['get-tuple', { thread_id: stored }, '#/thread_id'],
          ['list', { thread_id: stored }, '#/thread_id'],
          ['list', { cursor }, '#/cursor'],
          ['put', aPut(key), '#/thread_id'],
          ['put-writes', aPutWrites(key), '#/thread_id'],
          ['delete-thread', { thread_id: stored }, '#/thread_id'],
          ['copy-thread', { source_thread_id: stored, target_thread_id: 'mine' }, '#/source_thread_id'],
          ['copy-thread', { source_thread_id: one, target_thread_id: stored }, '#/target_thread_id'],
          ['prune', { thread_ids: [one, stored], strategy: 'delete' }, '#/thread_ids'],
          ['delta-channel-history', { thread_id: stored, channels: ['log'] }, '#/thread_id'],
        ];
        for (const [operation, body, pointer] of attempts) {
          const { status, json } = await postAs(tenant, operation, body);
          expect([operation, status, json.errors]).toEqual([
            operation,
            422,
            [
              {
                pointer,
                detail: pointer.endsWith('cursor')
                  ? 'must be the x-next-cursor of a list'
                  : `${pointer.endsWith('ids') ? 'item 1 ' : ''}must not begin with U+0001`,
              },
            ],
          ]);
        }
      }
    });
  });

  it('are those of x-tenant for an admin, and else those of its key', async () => {
    const thread_id = aThread();
    await inEach((tenant) => aHistory(tenant, thread_id));
    const key = await aKey(app.database, { tenant: 'z', scopes: ['admin'] });
    const seen = async (headers: Record<string, string>) =>
      (await app.post('get-tuple', { thread_id }, { 'x-agent-api-key': key, ...headers })).json.checkpoint.of;
    expect(await seen({})).toBe('z');
    for (const tenant of TENANTS) expect(await seen({ 'x-tenant': tenant })).toBe(tenant);
  });

  it.each(['acme', 'acme\u0001t', 't\u0001', '\u0002', '\u0002acme\u0001t', '%', '_', '\u{10ffff}'])(
    'may have a thread %j',
    async (thread_id) => {
      await inEach((tenant) => aHistory(tenant, thread_id));
      await inEach(async (tenant) => {
        const tuple = (await postAs(tenant, 'get-tuple', { thread_id })).json;
        expect([tuple.thread_id, tuple.checkpoint.of]).toEqual([thread_id, tenant]);
      });
    },
  );

  it.each([
    { tenant: '', room: 2600 },
    { tenant: LONG, room: 2535 },
  ])('of $tenant may have keys as long as an index holds them', async ({ tenant, room }) => {
    const incompressible = (length: number) => randomBytes(length).toString('base64').slice(0, length);
    const thread_id = incompressible(1000);
    const checkpoint_id = incompressible(room - 1000);
    const put = (id: string) => postAs(tenant, 'put', aPut({ thread_id, checkpoint_id: id }));
    expect((await put(checkpoint_id)).status).toBe(200);
    expect((await put(`${checkpoint_id}x`)).json.errors).toMatchObject([{ pointer: '#/checkpoint_id' }]);
    const write = (task_id: string) =>
      postAs(
        tenant,
        'put-writes',
        aPutWrites({ thread_id, checkpoint_id: 'c', writes: [aWrite({ task_id })] }),
      );
    expect((await write(incompressible(room - 1001))).status).toBe(204);
    expect((await write(incompressible(room - 1000))).json.errors).toMatchObject([{ pointer: '#/writes' }]);
  });
});

describe('tenants, whatever they do,', () => {
  const tenants = ['', 'a', 'ab'];
  const alone = new Map<string, TestApp>();
  let together: TestApp;
  beforeAll(async () => {
    together = await startApp({ AUTH_MODE: 'keys' });
    for (const tenant of tenants) alone.set(tenant, await startApp());
  });
  afterAll(async () => {
    for (const service of [together, ...alone.values()]) await service.close();
  });

  it('are each as if alone on a service with a database of its own', async () => {
    const postAs = postingAs(together);
    const thread = fc.constantFrom('t', 'a', 'ab', 'b\u0001t', 'é');
    const id = fc.constantFrom('1', '2', '3');
    const run = fc.constantFrom('r', 's');
    const key = { thread_id: thread, checkpoint_ns: fc.constantFrom('', 'sub'), checkpoint_id: id };
    const value = fc.string({ maxLength: 3 }).map(base64);
    const some = <T>(item: fc.Arbitrary<T>) => fc.array(item, { minLength: 1, maxLength: 3 });
    const requests = {
      'get-tuple': fc.record({ thread_id: thread }),
      list: fc.record(
        { thread_id: thread, limit: fc.constantFrom(1, 1000), include: fc.constant(['blobs']) },
        { requiredKeys: [] },
      ),
      put: fc
        .record({ ...key, run, version: id, blob: value })
        .map(({ run: run_id, version, blob, ...rest }) =>
          aPut({
            ...rest,
            parent_checkpoint_id: '1',
            checkpoint: { channel_versions: { c: version } },
            metadata: { run_id },
            blobs: [{ channel: 'c', version, type: 't', blob }],
          }),
        ),
      'put-writes': fc
        .record({ ...key, upsert: fc.boolean(), blob: value })
        .map(({ blob, ...rest }) => ({ ...rest, writes: [aWrite({ blob })] })),
      'delete-thread': fc.record({ thread_id: thread }),
      'copy-thread': fc.record({ source_thread_id: thread, target_thread_id: thread }),
      'delete-for-runs': fc.record({ run_ids: some(run) }),
      prune: fc.record({ thread_ids: some(thread), strategy: fc.constantFrom('keep_latest', 'delete') }),
      'delta-channel-history': fc.record({ thread_id: thread, channels: fc.constant(['c', 'messages']) }),
    };
    const step = fc.tuple(
      fc.constantFrom(...tenants),
      fc.oneof(
        ...Object.entries(requests).map(([operation, body]) => ({
          weight: operation.startsWith('put') ? 4 : 1,
          arbitrary: fc.tuple(fc.constant(operation), body as fc.Arbitrary<object>),
        })),
      ),
    );
    const seen = ({ status, text, headers }: Answer) => [status, text, headers['x-next-cursor']];
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
        const answers = await Promise.all(
          tenants.map(async (tenant) => {
            const own = steps.filter(([whose]) => whose === tenant);
            const pairs: [unknown, unknown][] = [];
            for (const [, [operation, body]] of own) {
              const shared = await postAs(tenant, operation, body);
              const expected = await alone.get(tenant)?.post(operation, body);
              pairs.push([seen(shared), expected && seen(expected)]);
            }
            return pairs;
          }),
        );
        for (const [shared, expected] of answers.flat()) expect(shared).toEqual(expected);
      }),
      { numRuns: 40 },
    );
  }, 120_000);
});
