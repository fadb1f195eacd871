import { createCipheriv, randomBytes, randomUUID } from 'node:crypto';
import { Annotation, MemorySaver, START, StateGraph } from '@langchain/langgraph';
import {
  type BaseCheckpointSaver,
  type SerializerProtocol,
  JsonPlusSerializer,
  emptyCheckpoint,
} from '@langchain/langgraph-checkpoint';
import { EncryptedSerializer, HttpCheckpointSaver } from '../../../clients/typescript/src/index.js';
import { startApp, type TestApp } from '../../support/app.js';
import { all } from '../../support/histories.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const ID = '1f000000-0000-6000-8000-000000000001';
const METADATA = { source: 'input' as const, step: -1, parents: {} };
const KEY = new Uint8Array(32).fill(7);
const SERDES: [string, SerializerProtocol | undefined][] = [
  ['plain', undefined],
  ['encrypted', new EncryptedSerializer({ key: KEY })],
];

const aSaver = (serde?: SerializerProtocol) =>
  new HttpCheckpointSaver({ baseUrl: app.url, apiKey: app.key, serde });

function put(saver: HttpCheckpointSaver, thread_id: string, values: object, metadata: object = METADATA) {
  const versions = Object.fromEntries(Object.keys(values).map((name) => [name, 1]));
  const checkpoint = { ...emptyCheckpoint(), channel_values: { ...values }, channel_versions: versions };
  return saver.put({ configurable: { thread_id } }, checkpoint, metadata as typeof METADATA, versions);
}

class Silent {
  constructor(private readonly says: unknown) {}
  toJSON() {
    return this.says;
  }
}

const STRANGE: Record<string, unknown> = {
  aFunction: () => 1,
  aClass: Date,
  aSymbol: Symbol('s'),
  undefined,
  null: null,
  'an object that gives itself as a function': new Silent(() => 1),
  'an object that gives itself as undefined': new Silent(undefined),
  nested: { f: () => 1, s: Symbol('s'), u: undefined, list: [() => 1, undefined, Symbol('s')] },
  'a map of functions': new Map([['f', () => 1]]),
  'a set of functions': new Set([() => 1]),
};

describe.each(SERDES)('a state with what JSON has no text for, %s', (_name, serde) => {
  const State = Annotation.Root({ v: Annotation<unknown>(), n: Annotation<number>() });
  const aGraph = (checkpointer: BaseCheckpointSaver, value: unknown) =>
    new StateGraph(State)
      .addNode('make', () => ({ v: value }))
      .addEdge(START, 'make')
      .compile({ checkpointer });

  it.each(Object.keys(STRANGE))('is read as MemorySaver reads it: %s', async (name) => {
    const seen: unknown[] = [];
    for (const saver of [new MemorySaver(), aSaver(serde)]) {
      const config = { configurable: { thread_id: randomUUID() } };
      const graph = aGraph(saver, STRANGE[name]);
      const states: unknown[] = [];
      for (let run = 0; run < 2; run++) {
        await graph.invoke({ n: run }, config);
        states.push((await graph.getState(config)).values);
      }
      seen.push(states);
    }
    expect(seen[1]).toEqual(seen[0]);
  });

  it('stores none of its own for it', async () => {
    const thread_id = randomUUID();
    await put(aSaver(serde), thread_id, { f: () => 1, o: new Silent(() => 1) });
    const { json } = await app.post('get-tuple', { thread_id });
    expect(json.blobs.map(({ type, blob }: { type: string; blob: unknown }) => [type, blob])).toEqual([
      ['empty', null],
      ['empty', null],
    ]);
  });

  it('keeps a readable history', async () => {
    const config = { configurable: { thread_id: randomUUID() } };
    for (const value of Object.values(STRANGE)) await aGraph(aSaver(serde), value).invoke({ n: 1 }, config);
    const states = await all(aGraph(aSaver(serde), 1).getStateHistory(config));
    expect(states).toHaveLength(3 * Object.keys(STRANGE).length);
  });
});

describe('a value that the serializer refuses', () => {
  it.each(SERDES)(
    'is refused by the name of its channel, and nothing is stored: %s',
    async (_name, serde) => {
      const saver = aSaver(serde);
      const thread = randomUUID();
      const throwing = {
        toJSON: () => {
          throw new Error('not me');
        },
      };
      const config = await put(saver, thread, { n: 1 });
      const asked = app.received();
      for (const value of [1n, { a: [1n] }, new Map([['a', 1n]]), throwing]) {
        const named = expect.objectContaining({
          name: 'TypeError',
          message: expect.stringContaining(
            `channel "big" cannot be stored: JSON has no text for a part of it`,
          ) as string,
        }) as Error;
        await expect(put(saver, thread, { n: 1, big: value })).rejects.toEqual(named);
        await expect(
          saver.putWrites(
            config,
            [
              ['n', 1],
              ['big', value],
            ],
            'task',
          ),
        ).rejects.toEqual(named);
        await expect(put(saver, thread, { n: 1 }, { ...METADATA, note: value })).rejects.toMatchObject({
          name: 'TypeError',
          message: expect.stringContaining('The metadata cannot be stored: JSON has no text') as string,
        });
      }
      expect(app.received()).toBe(asked);
      expect(
        (await saver.getTuple({ configurable: { thread_id: thread } }))?.checkpoint.channel_values,
      ).toEqual({ n: 1 });
    },
  );

  it('is not the text that the serializer puts in place of others', async () => {
    const text = '[unable to serialize, circular reference is too complex to analyze]';
    const config = await put(aSaver(), randomUUID(), { text });
    expect((await aSaver().getTuple(config))?.checkpoint.channel_values).toEqual({ text });
  });

  it('is one, too, when it gives no bytes at all', async () => {
    const serde = {
      dumpsTyped: () => ['json', undefined],
      loadsTyped: () => 1,
    } as unknown as SerializerProtocol;
    await expect(put(aSaver(serde), randomUUID(), { v: 1 })).rejects.toThrow('channel "v" cannot be stored');
  });
});

describe('bytes of length 0', () => {
  const inner = new JsonPlusSerializer();
  class Own implements SerializerProtocol {
    dumpsTyped(value: unknown): Promise<[string, Uint8Array]> {
      return value === '' ? Promise.resolve(['text', new Uint8Array()]) : inner.dumpsTyped(value);
    }
    loadsTyped(type: string, data: Uint8Array | string): Promise<unknown> {
      return type === 'text' ? Promise.resolve('') : (inner.loadsTyped(type, data) as Promise<unknown>);
    }
  }
  it.each<[string, SerializerProtocol]>([
    ['of LangGraph', inner],
    ['of an own type', new Own()],
    ['encrypted', new EncryptedSerializer({ key: KEY, serde: new Own() })],
  ])('are a value when their type is not JSON: %s', async (_name, serde) => {
    const thread = randomUUID();
    const values = { bytes: new Uint8Array(), text: '' };
    const saver = aSaver(serde);
    const config = await put(saver, thread, values);
    await saver.putWrites(config, Object.entries(values), 'task');
    const tuple = await saver.getTuple(config);
    expect(tuple?.checkpoint.channel_values).toEqual(values);
    expect(tuple?.pendingWrites).toEqual([
      ['task', 'bytes', values.bytes],
      ['task', 'text', ''],
    ]);
  });
});

describe('rows without bytes, as earlier versions and PostgresSaver stored them', () => {
  const nonce = randomBytes(16);
  const cipher = createCipheriv('aes-256-gcm', KEY, nonce);
  const sealed = Buffer.concat([cipher.update(''), cipher.final()]);
  const encrypted = Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString('base64');

  it.each([
    ['of type JSON', 'json', '', undefined, null],
    [
      'encrypted',
      'json+aes',
      encrypted,
      new EncryptedSerializer({ key: KEY, allowPlaintext: true }),
      undefined,
    ],
  ] as const)('do not keep their thread from going on: %s', async (_name, type, blob, serde, write) => {
    const thread_id = randomUUID();
    const blobs = [
      { channel: 'f', version: '1', type, blob },
      { channel: 'n', version: '1', type: 'json', blob: 'MQ==' },
    ];
    const checkpoint = { v: 4, id: ID, channel_versions: { f: '1', n: '1' } };
    await app.post('put', { thread_id, checkpoint_id: ID, checkpoint, blobs });
    const writes = [{ task_id: 't', idx: 0, channel: 'f', type, blob }];
    await app.post('put-writes', { thread_id, checkpoint_id: ID, writes });
    const tuple = await aSaver(serde).getTuple({ configurable: { thread_id } });
    expect(tuple?.checkpoint.channel_values).toEqual({ n: 1 });
    expect(tuple?.pendingWrites).toEqual([['t', 'f', write]]);
  });

  it('nor do those without a type', async () => {
    const thread_id = randomUUID();
    await app.post('put', {
      thread_id,
      checkpoint_id: ID,
      checkpoint: { v: 4, id: ID, channel_versions: {} },
    });
    const writes = [{ task_id: 't', idx: 0, channel: 'f', type: null, blob: '' }];
    await app.post('put-writes', { thread_id, checkpoint_id: ID, writes });
    const tuple = await aSaver().getTuple({ configurable: { thread_id } });
    expect(tuple?.pendingWrites).toEqual([['t', 'f', null]]);
  });
});
