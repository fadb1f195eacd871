import { createCipheriv, randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Annotation, Command, END, START, StateGraph, interrupt } from '@langchain/langgraph';
import type { BaseCheckpointSaver } from '@langchain/langgraph-checkpoint';
import {
  DecryptionError,
  EncryptedSerializer,
  type EncryptedSerializerOptions,
  HttpCheckpointSaver,
} from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { all } from '../../support/histories.js';
import { TABLES } from '../../support/schema.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const key = randomBytes(32);

/** A saver as another process would make it, which knows nothing but the key. */
function aSaver(options: EncryptedSerializerOptions | null = { key }): HttpCheckpointSaver {
  return new HttpCheckpointSaver({
    baseUrl: app.url,
    apiKey: app.key,
    ...(options !== null && { serde: new EncryptedSerializer(options) }),
  });
}

/** What the people and the agent say; each is in a place of its own. */
const SECRETS = {
  text: 'SECRET-text',
  list: 'SECRET-list',
  bytes: 'SECRET-bytes',
  question: 'SECRET-question',
  answer: 'SECRET-answer',
  byHand: 'SECRET-by-hand',
  error: 'SECRET-error',
};

const State = Annotation.Root({
  text: Annotation<string>,
  list: Annotation<string[]>({ reducer: (known, more) => [...known, ...more], default: () => [] }),
  bytes: Annotation<Uint8Array>,
});

/** A graph with a subgraph that asks; with the answer `fail` a node throws. */
function aGraph(checkpointer: BaseCheckpointSaver) {
  const inner = new StateGraph(State)
    .addNode('ask', () => ({ list: [interrupt<object, string>({ question: SECRETS.question })] }))
    .addEdge(START, 'ask')
    .compile();
  return new StateGraph(State)
    .addNode('first', () => ({
      text: SECRETS.text,
      list: [SECRETS.list],
      bytes: new TextEncoder().encode(SECRETS.bytes),
    }))
    .addNode('inner', inner)
    .addNode('last', ({ list }) => {
      if (list.includes('fail')) throw new Error(SECRETS.error);
      return { list: ['done'] };
    })
    .addEdge(START, 'first')
    .addEdge('first', 'inner')
    .addEdge('inner', 'last')
    .addEdge('last', END)
    .compile({ checkpointer });
}

/** Every row of the thread as text, bytes as they are, in hexadecimal. */
async function rowsOf(thread: string): Promise<string> {
  const rows = await app.database.sql<{ row: string }>(
    TABLES.map((table) => `select to_jsonb(t)::text as row from ${table} t where thread_id = $1`).join(
      ' union all ',
    ),
    [thread],
  );
  return rows.map(({ row }) => row).join('\n');
}

function foundIn(rows: string, words: string[]): string[] {
  return words.filter((word) =>
    [word, Buffer.from(word).toString('hex'), Buffer.from(word).toString('base64').slice(0, -4)].some(
      (text) => rows.includes(text),
    ),
  );
}

/** A thread on which a person was asked and has answered, that was forked, and whose last run failed. */
async function aLife(checkpointer: () => BaseCheckpointSaver) {
  const thread = { configurable: { thread_id: randomUUID() } };
  await aGraph(checkpointer()).invoke({ list: [] }, thread);
  const waiting = await aGraph(checkpointer()).getState(thread, { subgraphs: true });
  await aGraph(checkpointer()).invoke(new Command({ resume: SECRETS.answer }), thread);
  const history = await all(aGraph(checkpointer()).getStateHistory(thread));
  const beforeLast = history.find(({ next }) => next[0] === 'last')!;
  const fork = await aGraph(checkpointer()).updateState(beforeLast.config, {
    list: [SECRETS.byHand, 'fail'],
  });
  await expect(aGraph(checkpointer()).invoke(null, fork)).rejects.toThrow(SECRETS.error);
  const { values } = await aGraph(checkpointer()).getState(thread);
  return { thread, waiting, history, values: values as typeof State.State };
}

it('a thread goes on with a new saver that has the key, and nothing that was said is in the database', async () => {
  const { thread, waiting, history, values } = await aLife(() => aSaver());
  expect(waiting.tasks[0]?.interrupts[0]?.value).toEqual({ question: SECRETS.question });
  expect(history[0]?.values).toMatchObject({ list: [SECRETS.list, SECRETS.list, SECRETS.answer, 'done'] });
  expect(values).toEqual({
    text: SECRETS.text,
    list: [SECRETS.list, SECRETS.list, SECRETS.answer, SECRETS.byHand, 'fail'],
    bytes: new TextEncoder().encode(SECRETS.bytes),
  });
  const rows = await rowsOf(thread.configurable.thread_id);
  expect(foundIn(rows, Object.values(SECRETS))).toEqual([]);
  // Without encryption the same search finds each of them.
  const plain = await aLife(() => aSaver(null));
  expect(foundIn(await rowsOf(plain.thread.configurable.thread_id), Object.values(SECRETS))).toEqual(
    Object.values(SECRETS),
  );
});

it('every value is stored as encrypted, and the same value never twice alike', async () => {
  const { thread } = await aLife(() => aSaver());
  const types = await app.database.sql<{ type: string }>(
    `select type from checkpoint_blobs where thread_id = $1 and type <> 'empty'
     union select type from checkpoint_writes where thread_id = $1`,
    [thread.configurable.thread_id],
  );
  expect(types.map(({ type }) => type).sort()).toEqual(['bytes+aes', 'json+aes']);
  const serde = new EncryptedSerializer({ key });
  const [[, first], [, second]] = [await serde.dumpsTyped('x'), await serde.dumpsTyped('x')];
  expect(first).not.toEqual(second);
});

it('ids, names of channels and nodes, and metadata stay readable', async () => {
  const { thread } = await aLife(() => aSaver());
  const threadId = thread.configurable.thread_id;
  const names = [threadId, 'text', 'list', 'bytes', 'branch:to:inner', '__interrupt__', 'ask', 'update'];
  expect(foundIn(await rowsOf(threadId), names)).toEqual(names);
  expect(await all(aSaver().list(thread, { filter: { source: 'update' } }))).toHaveLength(1);
});

it('another key, changed bytes and a value put in from outside are refused', async () => {
  const { thread } = await aLife(() => aSaver());
  const threadId = thread.configurable.thread_id;
  await expect(aSaver({ key: randomBytes(32) }).getTuple(thread)).rejects.toThrow(
    'A stored value was encrypted with another key, or has been changed since it was stored',
  );
  await expect(aSaver(null).getTuple(thread)).rejects.toThrow(/json\+aes|bytes\+aes/);
  for (const harm of [
    'blob = set_byte(blob, 0, get_byte(blob, 0) # 1)',
    'blob = set_byte(blob, 16, get_byte(blob, 16) # 1)',
    'blob = set_byte(blob, length(blob) - 1, get_byte(blob, length(blob) - 1) # 1)',
    'blob = substring(blob from 1 for 20)',
    `blob = ''`,
    `type = 'json', blob = '"forged"'`,
    `type = 'json+reverse'`,
  ]) {
    const copy = { configurable: { thread_id: randomUUID() } };
    await aSaver().copyThread(threadId, copy.configurable.thread_id);
    expect(await aSaver().getTuple(copy)).toBeDefined();
    await app.database.sql(`update checkpoint_blobs set ${harm} where thread_id = $1 and channel = 'text'`, [
      copy.configurable.thread_id,
    ]);
    await expect(aSaver().getTuple(copy)).rejects.toThrow(DecryptionError);
  }
});

it('a thread that was begun in the clear goes on encrypted when that is allowed', async () => {
  const thread = { configurable: { thread_id: randomUUID() } };
  await aGraph(aSaver(null)).invoke({ list: [] }, thread);
  await expect(aSaver().getTuple(thread)).rejects.toThrow(DecryptionError);
  const allowing = aSaver({ key, allowPlaintext: true });
  const { list } = await aGraph(allowing).invoke(new Command({ resume: SECRETS.answer }), thread);
  expect(list).toEqual([SECRETS.list, SECRETS.list, SECRETS.answer, 'done']);
  expect(foundIn(await rowsOf(thread.configurable.thread_id), Object.values(SECRETS))).not.toContain(
    SECRETS.answer,
  );
});

it('a key is replaced while the former one is still known', async () => {
  const next = randomBytes(16);
  const { thread } = await aLife(() => aSaver());
  const both = aSaver({ key: next, previousKeys: [key] });
  expect((await both.getTuple(thread))?.checkpoint.channel_values.text).toBe(SECRETS.text);
  const { config } = await aGraph(both).getState(thread);
  await aGraph(both).updateState(config, { text: 'new' });
  const [last] = await app.database.sql<{ blob: Buffer }>(
    `select blob from checkpoint_blobs where thread_id = $1 and channel = 'text' order by version::float desc limit 1`,
    [thread.configurable.thread_id],
  );
  const stored = last!.blob;
  expect(await new EncryptedSerializer({ key: next }).loadsTyped('json+aes', stored)).toBe('new');
  await expect(new EncryptedSerializer({ key }).loadsTyped('json+aes', stored)).rejects.toThrow(
    DecryptionError,
  );
});

it('keys that AES does not know are refused at once', () => {
  for (const bytes of [0, 15, 31, 33]) {
    expect(() => new EncryptedSerializer({ key: randomBytes(bytes) })).toThrow(TypeError);
    expect(() => new EncryptedSerializer({ key, previousKeys: [randomBytes(bytes)] })).toThrow(TypeError);
  }
});

it("reads what LangGraph's Python EncryptedSerializer wrote, which reads this in turn", async () => {
  const file = new URL('../../fixtures/encrypted-values.json', import.meta.url);
  const values = JSON.parse(readFileSync(file, 'utf8')) as Record<'by' | 'type' | 'blob' | 'value', string>[];
  const serde = new EncryptedSerializer({ key: Uint8Array.from({ length: 32 }, (_, n) => n) });
  expect(values.map(({ by }) => by)).toEqual(['Python', 'JavaScript']);
  for (const { type, blob, value } of values) {
    expect(await serde.loadsTyped(type, Buffer.from(blob, 'base64'))).toEqual(value);
  }
});

it('is plain AES-GCM of the nonce, the tag and the ciphertext', async () => {
  const [type, bytes] = await new EncryptedSerializer({ key }).dumpsTyped({ a: 1 });
  const nonce = bytes.subarray(0, 16);
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  const ciphertext = Buffer.concat([cipher.update('{"a":1}'), cipher.final()]);
  expect(type).toBe('json+aes');
  expect(Buffer.from(bytes)).toEqual(Buffer.concat([nonce, cipher.getAuthTag(), ciphertext]));
});
