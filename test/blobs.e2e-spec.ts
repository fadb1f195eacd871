import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { AIMessage, HumanMessage } from '@langchain/core/messages';
import { Annotation, END, MessagesAnnotation, Send, START, StateGraph } from '@langchain/langgraph';
import { PostgresSaver } from '@langchain/langgraph-checkpoint-postgres';
import { type TestApp, startApp } from './support/app.js';
import { aPut, aPutWrites, aThread, aWrite, base64 } from './support/builders.js';
import { listBySaver } from './support/graph.js';
import { MAIN, until } from './support/process.js';
import { readAsPythonSaver } from './support/python-saver.js';
import { TABLES } from './support/schema.js';

let app: TestApp;
afterEach(() => app.close());

function begin(...args: string[]) {
  const child = spawn(process.execPath, [MAIN, 'blobs', ...args], {
    cwd: tmpdir(), // where no .env is
    env: { PATH: process.env.PATH, DATABASE_URL: app.database.url },
  });
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, output, errors }));
  return { child, ended };
}

const blobs = (...args: string[]) => begin(...args).ended;

/** What a command prints with --json. */
async function asJson<Printed = Record<string, number>>(...args: string[]): Promise<Printed> {
  const { output, errors } = await blobs(...args, '--json');
  if (output === '') throw new Error(errors);
  return JSON.parse(output) as Printed;
}

/** Every row of LangGraph's tables, to the byte. */
async function rows(): Promise<string[]> {
  const found = await app.database.sql<{ row: string }>(
    TABLES.map((table) => `select '${table} ' || to_jsonb(t)::text as row from ${table} t`).join(
      ' union all ',
    ),
  );
  return found.map(({ row }) => row).sort();
}

const types = async (table: 'blobs' | 'writes', thread_id: string) =>
  (
    await app.database.sql<{ type: string }>(
      `select type from checkpoint_${table} where thread_id = $1 order by ${table === 'blobs' ? 'version::int' : 'checkpoint_id, idx'}`,
      [thread_id],
    )
  ).map(({ type }) => type);

/** Texts that do not occur in each other. */
const text = (bytes: number) => randomBytes(bytes / 2).toString('hex');
const idOf = (n: number) => String(n).padStart(6, '0');

interface Step {
  thread_id: string;
  n: number;
  value: Buffer;
  parent?: number | null;
  ns?: string;
  writes?: Buffer[];
}

/** Stores a checkpoint with one channel, and its writes. Versions are numbers, whose order is not that of their texts. */
async function step({ thread_id, n, value, parent = n > 1 ? n - 1 : null, ns = '', writes = [] }: Step) {
  const key = { thread_id, checkpoint_ns: ns, checkpoint_id: idOf(n) };
  const checkpoint = { v: 4, id: idOf(n), channel_values: {}, channel_versions: { messages: `${n}` } };
  const blob = { channel: 'messages', version: `${n}`, type: 'msgpack', blob: base64(value) };
  const put = aPut({
    ...key,
    parent_checkpoint_id: parent === null ? null : idOf(parent),
    checkpoint,
    blobs: [blob],
  });
  const statuses = [(await app.post('put', put)).status];
  if (writes.length > 0) {
    const sent = writes.map((write, idx) => aWrite({ idx, blob: base64(write) }));
    statuses.push((await app.post('put-writes', aPutWrites({ ...key, writes: sent }))).status);
  }
  expect(statuses).toEqual([200, 204].slice(0, statuses.length));
}

/** A conversation of `steps` checkpoints, some with a Send of the whole state; returns its values. */
async function converse(thread_id: string, steps: number, ns = ''): Promise<Buffer[]> {
  const values: Buffer[] = [];
  let messages = '';
  for (let n = 1; n <= steps; n += 1) {
    messages += text(3000);
    const value = Buffer.from(`${String(n).padStart(5)}${messages}`);
    values.push(value);
    const send = Buffer.concat([Buffer.from('Send('), value, Buffer.from(')')]);
    await step({ thread_id, n, value, ns, writes: n % 3 === 0 ? [send, Buffer.from('small')] : [] });
  }
  return values;
}

async function expectValues(thread_id: string, values: Buffer[], ns = ''): Promise<void> {
  for (const [at, value] of values.entries()) {
    const key = { thread_id, checkpoint_ns: ns, checkpoint_id: idOf(at + 1) };
    const { json } = await app.post('get-tuple', key);
    expect(json.blobs).toEqual([
      { channel: 'messages', version: `${at + 1}`, type: 'msgpack', blob: base64(value) },
    ]);
  }
}

describe('compact, verify and expand', () => {
  it('change what is stored, and bring every byte back', async () => {
    app = await startApp();
    const [thread_id, forked, other] = [aThread(), aThread(), aThread()];
    const values = await converse(thread_id, 12);
    await converse(thread_id, 4, 'sub:1');
    const trunk = await converse(forked, 5);
    for (const [n, parent] of [
      [20, 3],
      [21, 20],
      [22, 5],
    ] as const) {
      const value = Buffer.concat([trunk[parent - 1] ?? Buffer.alloc(9000), Buffer.from(text(4000))]);
      await step({ thread_id: forked, n, parent, value });
    }
    for (let n = 1; n <= 3; n += 1) await step({ thread_id: other, n, value: randomBytes(5000) });
    await step({ thread_id: other, n: 4, value: Buffer.from('small') });
    const before = await rows();

    const compacted = await asJson('compact');
    expect(compacted).toMatchObject({ threads: 2 });
    expect(compacted.bytes_after).toBeLessThan(compacted.bytes_before! / 3);
    // The first one stays; from the second one on there is a log.
    expect(await types('blobs', thread_id)).toContain('msgpack');
    expect(
      (await types('blobs', thread_id)).filter((type) => type === 'delta+msgpack').length,
    ).toBeGreaterThan(13);
    expect(await types('writes', thread_id)).toContain('delta+msgpack');
    expect(new Set(await types('blobs', other))).toEqual(new Set(['msgpack']));
    await expectValues(thread_id, values);
    const { json } = await app.post('get-tuple', { thread_id, checkpoint_id: idOf(9) });
    expect(json.pending_writes.map(({ blob }: { blob: string }) => blob)).toEqual(
      [`Send(${values[8]!.toString()})`, 'small'].map(base64),
    );

    const checked = await blobs('verify');
    expect([checked.code, checked.errors]).toEqual([0, '']);
    expect(checked.output).toBe(
      `${compacted.values} values of 2 threads are as they were stored; 0 faults; 0 logs are unused\n`,
    );
    // What can be is already.
    expect(await asJson('compact')).toEqual({ threads: 0, values: 0, bytes_before: 0, bytes_after: 0 });

    const expanded = await blobs('expand', '--all', '--yes');
    expect(expanded).toMatchObject({
      code: 0,
      output: `stored ${compacted.values} values of 2 threads whole; 0 stay\n`,
    });
    expect(await rows()).toEqual(before);
    expect(await app.database.sql('select from checkpoint_deltas')).toEqual([]);
  });

  it('work beside a service that stores into the same threads', async () => {
    app = await startApp({ BLOB_STORAGE: 'delta' });
    const whole = await startApp({}, app.database);
    const delta = app;
    const threads = [aThread(), aThread()];
    const stored = new Map<string, Buffer[]>();
    app = whole;
    for (const thread_id of threads) stored.set(thread_id, await converse(thread_id, 15));
    let isStoring = true;
    let count = 0;
    const agents = threads.map(async (thread_id) => {
      const values = stored.get(thread_id)!;
      while (isStoring && values.length < 60) {
        app = values.length % 4 === 0 ? whole : delta;
        const value = Buffer.concat([values.at(-1)!, Buffer.from(text(2000))]);
        await step({
          thread_id,
          n: values.length + 1,
          value,
          writes: values.length % 5 === 0 ? [value] : [],
        });
        values.push(value);
        count += 1;
      }
    });
    await until('agents are at work', () => count > 4);
    let compacted = 0;
    for (let round = 0; round < 2; round += 1) compacted += (await asJson('compact')).values!;
    isStoring = false;
    await Promise.all(agents);
    expect(compacted).toBeGreaterThan(25);
    expect(await asJson('verify')).toMatchObject({ broken: [] });
    for (app of [whole, delta]) for (const [id, values] of stored) await expectValues(id, values);
    app = delta;
    await whole.close();
  });

  it('go on after they were killed', async () => {
    app = await startApp();
    const stored = new Map<string, Buffer[]>();
    for (const thread_id of [aThread(), aThread(), aThread()]) {
      stored.set(thread_id, await converse(thread_id, 40));
    }
    const before = await rows();
    const places = async () =>
      (await app.database.sql(`select from checkpoint_blobs where type like 'delta+%'`)).length;
    const killed = async (isFarEnough: () => Promise<boolean>, ...args: string[]) => {
      const { child, ended } = begin(...args);
      await until('it has begun', isFarEnough);
      child.kill('SIGKILL');
      expect((await ended).code).toBeNull();
      for (const [thread_id, values] of stored) await expectValues(thread_id, values);
    };
    await killed(async () => (await places()) > 20, 'compact');
    const atFirst = await places();
    expect(atFirst).toBeLessThan(117);
    await blobs('compact');
    expect(await places()).toBe(117);
    expect(await asJson('verify')).toMatchObject({ broken: [], unused_logs: 0 });
    await killed(async () => (await places()) < 117, 'expand', '--all', '--yes');
    expect((await blobs('expand', '--all', '--yes')).code).toBe(0);
    expect(await rows()).toEqual(before);
    expect(await app.database.sql('select from checkpoint_deltas')).toEqual([]);
  });

  it("leave rows that LangGraph's own savers read as before", async () => {
    app = await startApp();
    const saver = PostgresSaver.fromConnString(app.database.url);
    try {
      const thread = aThread();
      const State = Annotation.Root({ ...MessagesAnnotation.spec });
      const agent = new StateGraph(State)
        .addNode('model', () => ({ messages: [new AIMessage(text(3000))] }))
        .addNode('tool', () => ({ messages: [new AIMessage(text(800))] }))
        .addEdge(START, 'model')
        // As a prebuilt agent does, which sends the whole state.
        .addConditionalEdges('model', (state) => new Send('tool', state), ['tool'])
        .addEdge('tool', END)
        .compile({ checkpointer: saver });
      for (let turn = 0; turn < 5; turn += 1) {
        await agent.invoke(
          { messages: [new HumanMessage(text(500))] },
          { configurable: { thread_id: thread } },
        );
      }
      const [before, python] = [
        await listBySaver(saver, thread),
        await readAsPythonSaver(app.database.sql, thread),
      ];
      expect((await asJson('compact')).values).toBeGreaterThan(10);
      await expect(listBySaver(saver, thread)).rejects.toThrow(/delta\+/);
      expect(await asJson('verify')).toMatchObject({ broken: [] });
      await blobs('expand', '--thread', thread, '--yes');
      expect(await listBySaver(saver, thread)).toStrictEqual(before);
      expect(await readAsPythonSaver(app.database.sql, thread)).toStrictEqual(python);
      const { messages } = await agent.invoke(null, { configurable: { thread_id: thread } });
      expect(messages).toHaveLength(15);
    } finally {
      await saver.end();
    }
  });
});

describe('compact', () => {
  it('stores nothing when it is asked what it would do, and says nearly that', async () => {
    app = await startApp();
    await converse(aThread(), 10);
    const before = await rows();
    const would = await asJson('compact', '--dry-run');
    expect(await rows()).toEqual(before);
    expect(await asJson('compact')).toEqual(would);
  });

  it('leaves values alone that have nothing in common, however large', async () => {
    app = await startApp();
    const thread_id = aThread();
    for (let n = 1; n <= 4; n += 1) {
      await step({ thread_id, n, value: randomBytes(40_000), writes: [randomBytes(20_000)] });
    }
    const grown = Buffer.concat([randomBytes(40_000), Buffer.from('the end')]);
    await step({ thread_id, n: 5, value: grown.subarray(0, -7) });
    await step({ thread_id, n: 6, value: grown });
    for (const dryRun of [['--dry-run'], []]) {
      const { values, bytes_before, bytes_after } = await asJson('compact', ...dryRun);
      expect([values, bytes_before]).toEqual([2, 80_007]);
      expect(bytes_after).toBeLessThan(40_200);
    }
    expect(await types('writes', thread_id)).toEqual(Array(4).fill('msgpack'));
    expect(await types('blobs', thread_id)).toEqual([
      ...Array<string>(4).fill('msgpack'),
      ...Array<string>(2).fill('delta+msgpack'),
    ]);
    expect(await asJson('verify')).toMatchObject({ values: 2, broken: [], unused_logs: 0 });
  });

  it('takes the threads that are named: by tenant, by id, by age', async () => {
    app = await startApp();
    const ids = ['a', 'b', '\u0001acme\u0001a'];
    const uuid = (n: number, ms: number) => {
      const hex = ((BigInt(ms) + 12_219_292_800_000n) * 10_000n + BigInt(n)).toString(16).padStart(15, '0');
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-6${hex.slice(12)}-8000-000000000000`;
    };
    const add = (thread_id: string, ms: number) =>
      app.database.sql(
        `with c as (
           insert into checkpoints (thread_id, checkpoint_id, parent_checkpoint_id, checkpoint)
           select $1, ids.id, lag(ids.id) over (order by n), jsonb_build_object('channel_versions', jsonb_build_object('c', n::text))
             from unnest($2::text[]) with ordinality as ids (id, n))
         insert into checkpoint_blobs (thread_id, channel, version, type, blob)
         select $1, 'c', n::text, 't', convert_to(repeat(md5($1), 100) || repeat('x', n::int), 'UTF8') from generate_series(1, 4) as n`,
        [thread_id, [1, 2, 3, 4].map((n) => uuid(n, ms))],
      );
    const hour = 3_600_000;
    for (const id of ids) await add(id, Date.now() - 2 * hour);
    await add('new', Date.now());
    const compactedIds = async () =>
      (
        await app.database.sql<{ id: string }>(
          'select distinct thread_id as id from checkpoint_deltas order by 1',
        )
      ).map(({ id }) => id);
    expect(await asJson('compact', '--tenant', 'acme')).toMatchObject({ threads: 1, values: 3 });
    expect(await compactedIds()).toEqual([ids[2]]);
    expect(await asJson('compact', '--thread', 'b', '--thread', 'none')).toMatchObject({ threads: 1 });
    expect(await asJson('compact', '--older-than', '1h', '--rate', '1000')).toMatchObject({ threads: 1 });
    expect(await compactedIds()).toEqual([ids[2], 'a', 'b'].sort());
    expect(await asJson('compact')).toMatchObject({ threads: 1 });
    expect(await asJson('status')).toMatchObject([
      { tenant: '', threads: 3, blobs: 9, writes: 0, logs: 3, records: 9 },
      { tenant: 'acme', threads: 1, blobs: 3, writes: 0, logs: 1, records: 3, value_bytes: 3 * 3203 },
    ]);
    const { output } = await blobs('status', '--tenant', 'acme');
    expect(output).toMatch(/^TENANT +THREADS +BLOBS .*\nacme +1 +3 +0 +1 +3 +\d+ +9609\n$/);
  });
});

describe('compact leaves alone', () => {
  it.each<[what: string, change: string, left: string[]]>([
    [
      'a value that was stored anew since it was read',
      `update checkpoint_blobs set blob = 'another' where version = '5'`,
      ['msgpack', ...Array<string>(3).fill('delta+msgpack'), 'msgpack'],
    ],
    [
      'a value whose base is gone since it was read',
      `delete from checkpoint_writes; delete from checkpoint_deltas; delete from checkpoint_blobs where type like 'delta+%'`,
      ['msgpack', 'msgpack'],
    ],
  ])('%s', async (_, change, left) => {
    app = await startApp();
    const values = await converse('a', 4);
    await blobs('compact');
    await step({ thread_id: 'a', n: 5, value: Buffer.concat([values[3]!, Buffer.from(text(3000))]) });
    // As whoever stores into the thread holds it: compact has read the value, and waits.
    const { sql } = app.database;
    await sql('begin');
    await sql(`select pg_advisory_xact_lock_shared(hashtextextended('a', 5004))`);
    const { ended } = begin('compact', '--json');
    await until('it waits', async () => {
      return (await sql(`select from pg_locks where locktype = 'advisory' and not granted`)).length > 0;
    });
    await sql(change);
    await sql('commit');
    expect(JSON.parse((await ended).output)).toMatchObject({ values: 0 });
    expect(await types('blobs', 'a')).toEqual(left);
    expect(await asJson('verify')).toMatchObject({ broken: [], unused_logs: 0 });
  });
});

describe('expand', () => {
  it('says first how much it takes, and wants to know which threads', async () => {
    app = await startApp();
    await converse('a', 6);
    await converse('b', 6);
    await blobs('compact');
    const before = await rows();
    expect(await blobs('expand', '--all')).toMatchObject({
      code: 2,
      output: '',
      errors: expect.stringMatching(
        /^error: 14 values need 0[.]2 MB where they take 0[.]0 MB now, .*; --yes is missing\n$/,
      ),
    });
    for (const args of [[], ['--all', '--thread', 'a']]) {
      expect(await blobs('expand', '--yes', ...args)).toMatchObject({
        code: 2,
        errors: 'error: say which threads by one of --thread and --all\n',
      });
    }
    expect(await rows()).toEqual(before);
    expect(await asJson('expand', '--thread', 'b', '--yes')).toMatchObject({
      threads: 1,
      values: 7,
      left: 0,
    });
    expect(await asJson('status')).toMatchObject([{ threads: 1, blobs: 5, writes: 2 }]);
  });

  it('leaves a value that is broken, says which, and fails', async () => {
    app = await startApp();
    await converse('a', 4);
    await blobs('compact');
    await flipLastByte('at = 2');
    const { code, output, errors } = await blobs('expand', '--all', '--yes');
    expect([code, output]).toEqual([1, 'stored 3 values of 1 threads whole; 1 stay\n']);
    expect(errors).toContain(
      'stays: tenant "", thread_id "a", checkpoint_ns "", channel "messages", version "4": its CRC-32 is another one\n',
    );
  });
});

const flipLastByte = (condition: string) =>
  app.database.sql(
    `update checkpoint_deltas
        set delta = set_byte(delta, length(delta) - 1, 255 - get_byte(delta, length(delta) - 1)) where ${condition}`,
  );

describe('verify', () => {
  interface Verified {
    values: number;
    broken: object[];
    unused_logs: number;
    removed_records: number;
  }
  const of = { tenant: '', thread_id: 'a', checkpoint_ns: '' };
  const version = (n: number, reason: string) => ({ ...of, channel: 'messages', version: `${n}`, reason });
  const write = (n: number, reason: string) => ({
    ...of,
    ...{ channel: 'messages', checkpoint_id: idOf(n), task_id: 'task-1', idx: 0, reason },
  });

  beforeEach(async () => {
    app = await startApp();
    await converse('a', 6);
    await converse('b', 6);
    await blobs('compact');
  });

  it('names each value that a flipped bit of a record breaks', async () => {
    await flipLastByte(`thread_id = 'a' and at = 3`);
    const { code, output } = await blobs('verify');
    expect([code, output.split('\n').at(-2)]).toEqual([
      1,
      '11 values of 2 threads are as they were stored; 3 faults; 0 logs are unused',
    ]);
    const reason = 'its CRC-32 is another one';
    const { broken } = await asJson<Verified>('verify', '--thread', 'a');
    expect(new Set(broken)).toEqual(new Set([version(5, reason), version(6, reason), write(6, reason)]));
    expect(await asJson('verify', '--thread', 'b')).toMatchObject({ values: 7, broken: [] });
  });

  it('names what lacks a record, and a place that is another', async () => {
    const [first] = await app.database.sql<{ log: string }>(
      `select log from checkpoint_deltas where thread_id = 'a' limit 1`,
    );
    await app.database.sql(`delete from checkpoint_deltas where thread_id = 'a' and at = 3`);
    await app.database.sql(
      `update checkpoint_blobs set blob = set_byte(blob, 20, 255 - get_byte(blob, 20)) where thread_id = 'b' and version = '3'`,
    );
    const missing = `record 3 of log ${first!.log} is missing`;
    const { broken } = await asJson<Verified>('verify');
    expect(broken).toHaveLength(5);
    expect(broken).toEqual(
      expect.arrayContaining([
        { tenant: '', thread_id: 'a', reason: missing },
        ...[version(5, missing), version(6, missing), write(6, missing)],
        { ...version(3, 'its CRC-32 is another one'), thread_id: 'b' },
      ]),
    );
  });

  it('names the value of a record that nobody could go on from', async () => {
    await app.database.sql(
      `update checkpoint_deltas set delta = set_byte(delta, 4, 255 - get_byte(delta, 4)) where thread_id = 'a' and at = 2`,
    );
    const { broken } = await asJson<Verified>('verify');
    expect(broken).toEqual([version(4, 'its record has another CRC-32')]);
  });

  it('counts the logs that no value is in, of deleted threads too, and removes them when told to', async () => {
    const saver = PostgresSaver.fromConnString(app.database.url);
    await saver.deleteThread('b'); // which knows no logs
    await saver.end();
    expect(await asJson<Verified>('verify')).toMatchObject({ values: 7, broken: [], unused_logs: 1 });
    expect(await blobs('verify', '--sweep')).toMatchObject({
      code: 0,
      output:
        '7 values of 2 threads are as they were stored; 0 faults; 1 logs are unused, 5 records of them were removed\n',
    });
    expect(await asJson<Verified>('verify')).toMatchObject({ values: 7, unused_logs: 0 });
  });
});
