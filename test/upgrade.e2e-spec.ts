import { readFileSync } from 'node:fs';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { cleanUp, type Reply, Service, until } from './support/process.js';

const NEXT_RELEASE = readFileSync(new URL('./fixtures/next-release.sql', import.meta.url), 'utf8');
/** main.js of the previous release's build: npm run test:upgrade. */
const { PREVIOUS_RELEASE } = process.env;
const TIMEOUT_MS = 120_000;

let database: TestDatabase;
afterEach(async () => {
  await cleanUp();
  await database.drop();
});

/** Agents at work until told to stop, each request on the next of the instances; their threads belong to two of them each. */
function anAgency(instances: Service[]) {
  let stopped = false;
  let turn = 0;
  const failures: unknown[] = [];
  const stored = new Map<string, number>();
  const send = async (operation: string, body: object): Promise<Reply> => {
    const reply = await instances[(turn += 1) % instances.length]?.post(operation, body);
    if (reply === undefined || reply.status >= 300) failures.push({ operation, reply });
    return reply ?? { status: 0, json: null };
  };
  const agent = async (thread_id: string, name: string) => {
    for (let n = 0; !stopped; n += 1) {
      const checkpoint_id = `${String(n).padStart(6, '0')}-${name}`;
      const key = { thread_id, checkpoint_id };
      const own = { channel: name, version: `${n}`, type: 'msgpack', blob: base64(`${name} ${n}`) };
      // The other agent of the thread stores the same one, perhaps at the same time.
      const common = { channel: 'common', version: `${n}`, type: 'msgpack', blob: base64(`common ${n}`) };
      const channel_versions = { [name]: `${n}`, common: `${n}` };
      await send('put', aPut({ ...key, checkpoint: { v: 4, channel_versions }, blobs: [own, common] }));
      const writes = [aWrite({ task_id: name, blob: base64(`write ${n}`) })];
      await send('put-writes', aPutWrites({ ...key, writes, upsert: n % 2 === 0 }));
      for (const instance of [...instances]) {
        const { status, json } = await instance.post('get-tuple', key);
        const found = [
          status,
          json?.blobs.map(({ blob }: { blob: string }) => blob).sort(),
          json?.pending_writes.map(({ blob }: { blob: string }) => blob),
        ];
        const wanted = [200, [own.blob, common.blob].sort(), [base64(`write ${n}`)]];
        if (JSON.stringify(found) !== JSON.stringify(wanted)) failures.push({ key, found });
      }
      stored.set(thread_id, (stored.get(thread_id) ?? 0) + 1);
    }
  };
  const threads = Array.from({ length: 3 }, aThread);
  const agents = threads.flatMap((thread) => ['a', 'b'].map((name) => agent(thread, name)));
  const count = () => [...stored.values()].reduce((sum, checkpoints) => sum + checkpoints, 0);
  return {
    failures,
    threads,
    stored,
    /** Resolves when so many checkpoints more are stored and read. */
    work: async (checkpoints: number) => {
      const before = count();
      await until('the agents have worked', () => failures.length > 0 || count() >= before + checkpoints);
    },
    stop: async () => {
      stopped = true;
      await Promise.all(agents);
    },
  };
}

async function start(main?: string): Promise<Service> {
  const environment = { DATABASE_URL: database.url, LOG_LEVEL: 'info', DATABASE_POOL_MAX: '4' };
  return Service.start(environment, main === undefined ? {} : { main }).ready();
}

/** What one has stored the other reads, and whole threads are copied, pruned and deleted by either. */
async function expectOneStore(agency: ReturnType<typeof anAgency>, one: Service, other: Service) {
  for (const thread_id of agency.threads) {
    const request = { thread_id, limit: 1000, include: ['blobs', 'pending_writes'] };
    const listed = await one.post('list', request);
    expect(listed.json).toHaveLength(Math.min(agency.stored.get(thread_id) ?? 0, 1000));
    expect((await other.post('list', request)).json).toEqual(listed.json);

    const copy = aThread();
    expect(
      (await one.post('copy-thread', { source_thread_id: thread_id, target_thread_id: copy })).status,
    ).toBe(204);
    const copied = await other.post('list', { ...request, thread_id: copy });
    expect(copied.json).toEqual(listed.json.map((tuple: object) => ({ ...tuple, thread_id: copy })));
    expect((await other.post('prune', { thread_ids: [copy], strategy: 'keep_latest' })).status).toBe(204);
    expect((await one.post('list', { ...request, thread_id: copy })).json).toEqual([
      { ...copied.json[0], parent_checkpoint_id: null },
    ]);
    expect((await one.post('delete-thread', { thread_id: copy })).status).toBe(204);
    expect((await other.post('list', { ...request, thread_id: copy })).json).toEqual([]);
  }
}

describe('a rolling upgrade', () => {
  it(
    'from this release: it serves on while the next one migrates, also when it starts after that',
    async () => {
      database = await createDatabase();
      const first = await start();
      const instances = [first];
      const agency = anAgency(instances);
      await agency.work(12);
      await database.sql(NEXT_RELEASE);
      await agency.work(12);
      const second = await start(); // with a migration in the database that it does not know
      expect((await first.get('/health/ready')).status).toBe(200);
      instances.push(second);
      await agency.work(24);
      await agency.stop();
      expect(agency.failures).toEqual([]);
      await expectOneStore(agency, first, second);
    },
    TIMEOUT_MS,
  );

  (PREVIOUS_RELEASE === undefined ? it.skip : it)(
    'from the previous release to this one: both serve the same threads, and nobody notices',
    async () => {
      database = await createDatabase({ like: 'empty' });
      const previous = await start(PREVIOUS_RELEASE);
      const instances = [previous];
      const agency = anAgency(instances);
      await agency.work(12);
      const next = await start();
      expect(next.log).toMatch(/migrated: \w+/);
      expect((await previous.get('/health/ready')).status).toBe(200);
      instances.push(next);
      await agency.work(48);
      instances.splice(0, 1); // its endpoint goes first
      await agency.work(12);
      await agency.stop();
      expect(agency.failures).toEqual([]);
      await expectOneStore(agency, previous, next);
      await expectOneStore(agency, next, previous);
      expect(await previous.stop()).toBe(0);
      for (const { log } of [previous, next]) expect(log).not.toMatch(/"level":"(error|fatal)"/);
    },
    TIMEOUT_MS,
  );
});
