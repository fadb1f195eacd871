import type { Type } from '@nestjs/common';
import { IsOptional, IsString, Matches, ValidateNested } from 'class-validator';
import fc from 'fast-check';
import { type Fault, InvalidRequestError } from '../../errors/errors.js';
import { CopyThreadRequest } from './copy-thread.dto.js';
import { DeleteForRunsRequest } from './delete-for-runs.dto.js';
import { DeltaChannelHistoryRequest } from './delta-channel-history.dto.js';
import { GetTupleRequest } from './get-tuple.dto.js';
import { ListRequest } from './list.dto.js';
import { PruneRequest } from './prune.dto.js';
import { PutWritesRequest } from './put-writes.dto.js';
import { PutRequest } from './put.dto.js';
import { Caller, passCaller, setCaller } from '../../request/caller.js';
import { compile, fieldsOf } from '../../http/validation/compiled-validation.js';
import { describeFaults } from '../../http/validation/described-faults.js';
import { parseExactJson } from '../../http/exact-json/exact-json.js';
import { validationPipe } from '../../http/validation/validation.js';

const id = fc.constantFrom(
  '"a"',
  '""',
  '1',
  '1.0',
  '"\\u0000"',
  '"\\ud800"',
  '"\\u0001acme\\u0001t"',
  'null',
  'true',
  '[]',
  '{}',
  `"${'k'.repeat(1400)}"`,
);
const blob = fc.constantFrom('"aGk="', '"aGk"', '"_-=="', '""', 'null', '1', '{}');
const document = fc.constantFrom('{}', '{"a":1.0}', '[]', 'null', '"{}"', '1');
const words = fc.constantFrom(
  '[]',
  '["blobs"]',
  '["pending_writes","blobs"]',
  '["other"]',
  'null',
  '"blobs"',
  '[1]',
  '[null]',
);
const number = fc.constantFrom(
  '0',
  '1',
  '-1',
  '1.0',
  '1.5',
  '1e3',
  '1e400',
  '2147483648',
  '"1"',
  'null',
  '1001',
);

/** JSON of an object with some of the members; one that is absent, unknown, or of a wrong kind now and then. */
function anObject(members: Record<string, fc.Arbitrary<string>>): fc.Arbitrary<string> {
  return fc
    .record(
      Object.fromEntries(
        Object.entries(members).map(([name, value]) => [
          name,
          fc.oneof({ weight: 9, arbitrary: value }, { weight: 1, arbitrary: fc.constant(null) }),
        ]),
      ),
    )
    .map((object) => {
      const written = Object.entries(object).filter(([, value]) => value !== null);
      return `{${written.map(([name, value]) => `"${name}":${String(value)},`).join('')}"unknown":1}`;
    });
}

const anArray = (item: fc.Arbitrary<string>) =>
  fc.oneof(
    { weight: 9, arbitrary: fc.array(item, { maxLength: 3 }).map((items) => `[${items.join()}]`) },
    { weight: 1, arbitrary: fc.constantFrom('null', '{}', '[null]', '["a"]', '[[]]', '1') },
  );
/** Mostly right, so that requests without a fault occur. */
const mostly = (right: string, any: fc.Arbitrary<string>) =>
  fc.oneof({ weight: 4, arbitrary: fc.constant(right) }, { weight: 1, arbitrary: any });

const key = {
  thread_id: mostly('"t"', id),
  checkpoint_ns: mostly('""', id),
  checkpoint_id: mostly('"c"', id),
};
const REQUESTS: { type: Type<object>; request: fc.Arbitrary<string> }[] = [
  {
    type: PutRequest,
    request: anObject({
      ...key,
      parent_checkpoint_id: mostly('null', id),
      checkpoint: mostly('{}', document),
      metadata: mostly('{}', document),
      blobs: anArray(
        anObject({
          channel: mostly('"c"', id),
          version: mostly('1', id),
          type: mostly('"t"', id),
          blob: mostly('"aGk="', blob),
        }),
      ),
    }),
  },
  {
    type: PutWritesRequest,
    request: anObject({
      ...key,
      upsert: mostly('true', id),
      writes: anArray(
        anObject({
          task_id: mostly('"t"', id),
          idx: mostly('0', number),
          channel: mostly('"c"', id),
          type: mostly('"t"', id),
          blob: mostly('"aGk="', blob),
          task_path: mostly('""', id),
        }),
      ),
    }),
  },
  { type: GetTupleRequest, request: anObject({ ...key, include: words }) },
  {
    type: ListRequest,
    request: anObject({
      ...key,
      before_checkpoint_id: mostly('null', id),
      filter_metadata: mostly('{}', document),
      limit: mostly('10', number),
      cursor: mostly('null', fc.constantFrom('"WyJhIiwiYiIsImMiXQ"', '"x"', '1')),
      include: words,
    }),
  },
  {
    type: CopyThreadRequest,
    request: anObject({ source_thread_id: mostly('"s"', id), target_thread_id: mostly('"t"', id) }),
  },
  { type: DeleteForRunsRequest, request: anObject({ run_ids: anArray(id) }) },
  {
    type: PruneRequest,
    request: anObject({ thread_ids: anArray(id), strategy: mostly('"keep_latest"', id) }),
  },
  { type: DeltaChannelHistoryRequest, request: anObject({ ...key, channels: anArray(id) }) },
];

/** The usual way keeps fields that no DTO has; nothing reads them. */
function withoutUnknown(request: Record<string, unknown>): object {
  delete request.unknown;
  for (const value of Object.values(request)) {
    if (Array.isArray(value)) for (const item of value) delete (item as { unknown?: unknown }).unknown;
  }
  return request;
}

const OPTIONS = {
  exact: new Set(['checkpoint', 'metadata', 'filter_metadata']),
  maxElements: 100,
  maxDocumentBytes: 2 ** 20,
  maxDocumentNodes: 1000,
};

describe('compile', () => {
  const usual = validationPipe(false);

  it.each(REQUESTS)('$type.name is made, or not, as class-validator has it', async ({ type, request }) => {
    const make = compile(type);
    let made = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(request, async (text) => {
        const parsed = () => {
          const body = parseExactJson(text, OPTIONS) as object;
          setCaller(body, new Caller('acme'));
          return body;
        };
        const expected: unknown = await usual
          .transform(parsed(), { type: 'body', metatype: type })
          .catch(() => null);
        const body = parsed();
        const ours = make?.(body) ?? null;
        if (ours !== null) passCaller(body, ours);
        if (expected === null) {
          refused += 1;
          expect(ours).toBeNull();
        } else {
          made += 1;
          expect(ours).toBeInstanceOf(type);
          expect(ours).toEqual(withoutUnknown(expected as Record<string, unknown>));
        }
      }),
      { numRuns: 400 },
    );
    expect(Math.min(made, refused)).toBeGreaterThan(20);
  });

  it.each(REQUESTS)('the faults of $type.name are those of class-validator', async ({ type, request }) => {
    const compiled = fieldsOf(type);
    await fc.assert(
      fc.asyncProperty(request, async (text) => {
        const parsed = () => {
          const body = parseExactJson(text, OPTIONS) as Record<string, unknown>;
          setCaller(body, new Caller('acme'));
          return body;
        };
        const expected: unknown = await usual.transform(parsed(), { type: 'body', metatype: type }).then(
          () => [],
          (error: unknown) => (error instanceof InvalidRequestError ? error.faults : error),
        );
        const { faults, total } = describeFaults(compiled!, parsed());
        const inOrder = (some: unknown) => (some as Fault[]).map((fault) => JSON.stringify(fault)).sort();
        expect(inOrder(faults)).toEqual(inOrder(expected));
        expect(total).toBe(faults.length);
      }),
      { numRuns: 300 },
    );
  });

  it.each([true, false])(
    'many rows take the same way, fast or not (%s), and not all faults are told',
    async (fast) => {
      const pipe = validationPipe(fast);
      const of = (row: string) => {
        const body = parseExactJson(
          `{"thread_id":"t","checkpoint_id":"1","checkpoint":{},"blobs":[${Array(5000).fill(row).join()}]}`,
          {
            ...OPTIONS,
            maxElements: 5000,
          },
        ) as object;
        setCaller(body, new Caller());
        return pipe.transform(body, { type: 'body', metatype: PutRequest });
      };
      expect(await of('{"channel":"a","version":"1","type":"t","blob":"QQ=="}')).toBeInstanceOf(PutRequest);
      const refused = of('{}');
      await expect(refused).rejects.toThrow('The request has 15000 faults, of which 100 are told');
      const { faults } = (await refused.catch((error: unknown) => error)) as InvalidRequestError;
      expect(faults).toHaveLength(100);
      expect(faults[3]).toEqual({ pointer: '#/blobs/1/channel', detail: 'is missing' });
    },
  );

  it('knows nothing of decorators that it does not compile', () => {
    class Each {
      @IsString({ each: true })
      texts!: string[];
    }
    class Nested {
      @ValidateNested()
      each!: Each;
    }
    class Known {
      @IsOptional()
      @Matches(/^a/)
      text?: string;
    }
    expect([Each, Nested].map(compile)).toEqual([null, null]);
    expect(['ab', 'b', null].map((text) => compile(Known)?.({ text }) !== null)).toEqual([true, false, true]);
  });
});
