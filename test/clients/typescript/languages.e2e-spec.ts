import { randomUUID } from 'node:crypto';
import { Annotation, START, StateGraph } from '@langchain/langgraph';
import type { SerializerProtocol } from '@langchain/langgraph-checkpoint';
import { HttpCheckpointSaver, OtherLanguageError } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { aPut, base64 } from '../../support/builders.js';
import { all } from '../../support/histories.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const ID = '1f000000-0000-6000-8000-000000000001';
/** As Python's Postgres savers and our Python client make them. */
const VERSION = '00000000000000000000000000000002.0.4837291034871234';
const aSaver = (serde?: SerializerProtocol) =>
  new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key, serde });

/** A checkpoint of a thread of its own, as it is on the wire. */
async function stored(checkpoint: object, blobs: object[] = [], writes: object[] = []): Promise<string> {
  const thread_id = randomUUID();
  const put = aPut({ thread_id, checkpoint_id: ID, checkpoint: { v: 4, id: ID, ...checkpoint }, blobs });
  expect((await app.post('put', put)).status).toBe(200);
  if (writes.length > 0) await app.post('put-writes', { thread_id, checkpoint_id: ID, writes });
  return thread_id;
}

const MSGPACK = { type: 'msgpack', blob: base64(Buffer.of(0xa2, 0x68, 0x69)) };

const ofPython: [string, () => Promise<string>, string][] = [
  [
    'whose values are all primitive',
    () => stored({ channel_values: { n: 1 }, channel_versions: { n: VERSION, __start__: VERSION } }),
    'the channel "n" is inside the checkpoint',
  ],
  [
    'whose values are null',
    () => stored({ channel_values: { 'branch:to:a': null }, channel_versions: { 'branch:to:a': VERSION } }),
    'the channel "branch:to:a" is inside the checkpoint',
  ],
  [
    'that has no values',
    () => stored({ channel_values: {}, channel_versions: { n: VERSION } }),
    'the channel "n" has a version of Python',
  ],
  [
    'with msgpack',
    () => stored({ channel_versions: { n: 1 } }, [{ channel: 'n', version: 1, ...MSGPACK }]),
    'a value has the type msgpack',
  ],
  [
    'with a write in msgpack',
    () => stored({ channel_versions: {} }, [], [{ task_id: 't', idx: 0, channel: 'n', ...MSGPACK }]),
    'a value has the type msgpack',
  ],
];

describe.each(ofPython)('a thread of Python %s', (_name, aThread, sign) => {
  it('is refused by name, and stays as it is', async () => {
    const thread_id = await aThread();
    const config = { configurable: { thread_id } };
    const refused = expect.objectContaining({
      name: 'OtherLanguageError',
      message: expect.stringMatching(`${sign}.*in Python|in Python.*${sign}`) as string,
    }) as Error;
    const graph = new StateGraph(Annotation.Root({ n: Annotation<number>() }))
      .addNode('a', ({ n }) => ({ n: n + 1 }))
      .addEdge(START, 'a')
      .compile({ checkpointer: aSaver() });
    const before = await app.post('list', { thread_id });
    await expect(aSaver().getTuple(config)).rejects.toEqual(refused);
    await expect(aSaver().getTuple(config)).rejects.toBeInstanceOf(OtherLanguageError);
    await expect(all(aSaver().list(config))).rejects.toEqual(refused);
    await expect(graph.invoke({ n: 1 }, config)).rejects.toEqual(refused);
    await expect(graph.getState(config)).rejects.toEqual(refused);
    expect((await app.post('list', { thread_id })).text).toBe(before.text);
    await aSaver().deleteThread(thread_id);
    expect(await aSaver().getTuple(config)).toBeUndefined();
  });
});

it('a serializer that knows the types of Python may read them', async () => {
  const thread_id = await stored({ channel_versions: { n: 1 } }, [{ channel: 'n', version: 1, ...MSGPACK }]);
  const serde: SerializerProtocol = {
    dumpsTyped: () => Promise.reject(new Error('never asked')),
    loadsTyped: (type) => Promise.resolve(`read ${type}`),
  };
  const tuple = await aSaver(serde).getTuple({ configurable: { thread_id } });
  expect(tuple?.checkpoint.channel_values).toEqual({ n: 'read msgpack' });
});

it('an unknown type of nobody is an error as ever', async () => {
  const thread_id = await stored({ channel_versions: { n: 1 } }, [
    { channel: 'n', version: 1, type: 'yaml', blob: base64('a') },
  ]);
  await expect(aSaver().getTuple({ configurable: { thread_id } })).rejects.toThrow(
    'Unknown serialization type: yaml',
  );
});
