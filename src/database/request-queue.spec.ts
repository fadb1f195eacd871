import { setTimeout as delay } from 'node:timers/promises';
import { QueueFullError, QueueTimeoutError } from '../errors/errors.js';
import { Caller } from '../request/caller.js';
import { NoRoomError } from '../request/read-memory.js';
import { type Kind, type QueueOptions, RequestQueue } from './request-queue.js';

interface Request {
  name: string;
  slot?: string;
  rows?: number;
  bytes?: number;
}

const A_WHILE_MS = 3_600_000;

/** A queue and a kind whose statements end when the test says so. `statements` are the names in each, as they began. */
function aQueue(options: Partial<QueueOptions> = {}, merged = true) {
  const statements: string[][] = [];
  const since: number[] = [];
  const ends: ((error?: Error) => void)[] = [];
  const kind: Kind<Request> = {
    run: (requests, mode) => {
      statements.push(requests.map(({ name }) => name));
      since.push(mode.since);
      return new Promise((resolve, reject) => {
        ends.push((error) => {
          if (error === undefined) resolve();
          else reject(error);
        });
      });
    },
    ...(merged && {
      merge: {
        slotsOf: ({ name, slot = name }) => [slot],
        rowsOf: ({ rows = 1 }) => rows,
        bytesOf: ({ bytes = 1 }) => bytes,
      },
    }),
  };
  const giveUp = () => new QueueTimeoutError('waited too long');
  const queue = new RequestQueue({
    slots: 10,
    max: 1000,
    tenantSlots: null,
    waitMs: A_WHILE_MS,
    lockWaitMs: A_WHILE_MS,
    merge: true,
    giveUp,
    ...options,
  });
  return {
    statements,
    since,
    ends,
    queue,
    add: (thread: string, request: Request | string, caller?: Caller) =>
      queue.add(kind, thread, typeof request === 'string' ? { name: request } : request, caller),
    /** Ends the oldest statement that is under way. */
    end: async (error?: Error) => {
      ends.shift()?.(error);
      await delay(0);
    },
  };
}

describe('RequestQueue', () => {
  it('begins a request at once when nothing is under way', () => {
    const { add, statements } = aQueue();
    void add('a', '1');
    expect(statements).toEqual([['1']]);
  });

  it('merges what gathers while two statements are under way', async () => {
    const { add, end, statements } = aQueue();
    for (const name of ['1', '2', '3', '4', '5']) void add(name, name);
    expect(statements).toEqual([['1'], ['2']]);
    await end();
    expect(statements).toEqual([['1'], ['2'], ['3', '4', '5']]);
  });

  it('merges nothing when told so, nor requests without a merge', () => {
    for (const queue of [aQueue({ merge: false }), aQueue({}, false)]) {
      for (const name of ['1', '2', '3', '4']) void queue.add(name, name);
      expect(queue.statements).toEqual([['1'], ['2'], ['3'], ['4']]);
    }
  });

  it('begins the requests of a thread in their order, one statement after the other', async () => {
    const { add, end, statements } = aQueue();
    for (const name of ['1', '2', '3']) void add('a', name);
    expect(statements).toEqual([['1']]);
    void add('b', '4');
    expect(statements).toEqual([['1'], ['4']]);
    await end();
    expect(statements).toEqual([['1'], ['4'], ['2', '3']]);
  });

  it('never has a slot of a thread twice in a statement', async () => {
    const { add, end, statements } = aQueue();
    void add('a', '1');
    for (const [name, slot] of Object.entries({ 2: 'x', 3: 'y', 4: 'x', 5: 'z' }))
      void add('a', { name, slot });
    await end();
    await end();
    expect(statements).toEqual([['1'], ['2', '3'], ['4', '5']]);
  });

  it.each([
    { what: 'requests', request: {}, count: 64 },
    { what: 'rows', request: { rows: 300 }, count: 3 },
    { what: 'bytes', request: { bytes: 400_000 }, count: 2 },
    { what: 'bytes of the first', request: { bytes: 4_000_000 }, count: 1 },
  ])('bounds a statement in $what', async ({ request, count }) => {
    const { add, end, statements } = aQueue();
    for (let n = 0; n < 100; n += 1) void add(`${n}`, { name: `${n}`, ...request });
    await end();
    expect(statements[2]).toHaveLength(count);
    expect(statements[2]?.[0]).toBe('2');
  });

  it('gives a request beyond the bounds a statement of its own', async () => {
    const { add, end, statements } = aQueue();
    for (const name of ['1', '2']) void add(name, name);
    void add('3', { name: '3', bytes: 4_000_000 });
    void add('4', '4');
    await end();
    expect(statements[2]).toEqual(['3']);
  });

  it('takes no more than 16 requests of a thread into a statement', async () => {
    const { add, end, statements } = aQueue();
    for (let n = 0; n < 40; n += 1) void add('flood', `${n}`);
    void add('other', 'mine');
    expect(statements).toEqual([['0'], ['mine']]);
    void add('third', 'third');
    await end();
    expect(statements[2]).toEqual(['third', ...Array.from({ length: 16 }, (_, n) => `${n + 1}`)]);
  });

  it('lets threads take turns', async () => {
    const { add, end, statements } = aQueue({ slots: 1 }, false);
    for (let n = 0; n < 100; n += 1) void add('flood', `flood ${n}`);
    void add('other', 'mine');
    await end();
    await end();
    expect(statements.map(([name]) => name)).toEqual(['flood 0', 'flood 1', 'mine']);
  });

  it('lets a thread have its turn that another one floods with requests of another kind', async () => {
    const order: string[] = [];
    const ends: (() => void)[] = [];
    const queue = new RequestQueue({
      slots: 1,
      max: 999,
      tenantSlots: null,
      waitMs: A_WHILE_MS,
      lockWaitMs: A_WHILE_MS,
      merge: true,
      giveUp: () => null,
    });
    const aKind = (merged: boolean): Kind<string> => ({
      run: (names) => {
        order.push(names.join());
        return new Promise((resolve) => ends.push(resolve));
      },
      ...(merged && { merge: { slotsOf: (name) => [name], rowsOf: () => 1, bytesOf: () => 1 } }),
    });
    const [single, merged] = [aKind(false), aKind(true)];
    for (let n = 0; n < 100; n += 1) void queue.add(single, '', `list ${n}`);
    void queue.add(merged, 'other', 'put');
    for (let n = 0; n < 3; n += 1) {
      ends.shift()?.();
      await delay(0);
    }
    expect(order).toEqual(['list 0', 'list 1', 'put', 'list 2']);
  });

  describe('with several tenants', () => {
    const [many, few] = ['many', 'few'];

    it('lets tenants take turns, however many threads they have', async () => {
      const { add, end, statements } = aQueue({ slots: 1 }, false);
      for (let n = 0; n < 50; n += 1) void add(`${n}`, `many ${n}`, new Caller(many));
      void add('0', 'few 0', new Caller(few));
      void add('0', 'few 1', new Caller(few));
      for (let n = 0; n < 4; n += 1) await end();
      expect(statements.flat()).toEqual(['many 0', 'many 1', 'few 0', 'many 2', 'few 1']);
    });

    it('shares a merged statement among them', async () => {
      const { add, end, statements } = aQueue();
      for (let n = 0; n < 200; n += 1) void add(`${n}`, `many ${n}`, new Caller(many));
      for (let n = 0; n < 20; n += 1) void add(`of few ${n}`, `few ${n}`, new Caller(few));
      await end();
      const names = statements[2] ?? [];
      expect(names).toHaveLength(64);
      expect(names.filter((name) => name.startsWith('few'))).toHaveLength(20);
    });

    it('gives nothing for the time in which a tenant asked for nothing', async () => {
      const { add, end, statements } = aQueue({ slots: 1 }, false);
      for (let n = 0; n < 20; n += 1) void add(`${n}`, `many ${n}`, new Caller(many));
      for (let n = 0; n < 10; n += 1) await end();
      for (let n = 0; n < 5; n += 1) void add(`${n}`, `few ${n}`, new Caller(few));
      for (let n = 0; n < 6; n += 1) await end();
      expect(
        statements
          .slice(-6)
          .flat()
          .filter((name) => name.startsWith('many')),
      ).toHaveLength(3);
    });

    it('keeps a connection free for the others, once there are others', async () => {
      const { add, end, statements } = aQueue({ slots: 3 }, false);
      for (const name of ['1', '2', '3']) void add(name, name, new Caller(many));
      expect(statements).toHaveLength(3);
      void add('0', 'few 0', new Caller(few));
      for (let n = 0; n < 4; n += 1) await end();
      for (const name of ['4', '5', '6']) void add(name, name, new Caller(many));
      expect(statements.slice(3).flat()).toEqual(['few 0', '4', '5']);
      void add('0', 'few 1', new Caller(few));
      expect(statements.at(-1)).toEqual(['few 1']);
      await end();
      expect(statements.at(-1)).toEqual(['6']);
    });

    it('never runs more statements for a tenant than it is told, not even for the only one', async () => {
      const { add, end, statements } = aQueue({ slots: 3, tenantSlots: 1 }, false);
      for (const name of ['1', '2']) void add(name, name, new Caller(many));
      expect(statements).toEqual([['1']]);
      void add('0', 'few 0', new Caller(few));
      expect(statements).toEqual([['1'], ['few 0']]);
      await end();
      expect(statements).toEqual([['1'], ['few 0'], ['2']]);
    });

    it('counts a shared statement for the tenant whose turn it was', async () => {
      const { add, end, statements } = aQueue({ tenantSlots: 1 });
      void add('1', 'many 1', new Caller(many));
      void add('2', 'many 2', new Caller(many));
      void add('a', 'few 1', new Caller(few));
      expect(statements).toEqual([['many 1'], ['few 1']]);
      void add('b', 'few 2', new Caller(few));
      await end();
      expect(statements[2]).toEqual(['many 2']);
      await end();
      expect(statements[3]).toEqual(['few 2']);
    });

    it('lets others by when two statements have become slow, those of another tenant by themselves', async () => {
      const { add, end, statements } = aQueue();
      void add('0', 'few 0', new Caller(few));
      await end();
      for (const name of ['1', '2', '3']) void add(name, `many ${name}`, new Caller(many));
      void add('a', 'few 1', new Caller(few));
      expect(statements.slice(1)).toEqual([['many 1'], ['many 2']]);
      await delay(400);
      expect(statements.slice(3).sort()).toEqual([['few 1'], ['many 3']]);
    });

    it('divides a statement that failed by tenant, and lets the one that was to blame share none', async () => {
      const { add, ends, statements } = aQueue();
      for (const name of ['1', '2']) void add(`busy ${name}`, name, new Caller(few));
      for (const n of [1, 2, 3]) void add(`few ${n}`, `few ${n}`, new Caller(few));
      const bad = add('many', 'many', new Caller(many));
      for (const end of ends.splice(0)) end();
      await delay(0);
      expect(statements[2]?.toSorted()).toEqual(['few 1', 'few 2', 'few 3', 'many']);
      ends.shift()?.(new Error('refused'));
      await delay(0);
      const last = statements.slice(3);
      expect(last).toContainEqual(['many']);
      ends[last.findIndex(([name]) => name === 'many')]?.(new Error('of many'));
      await expect(bad).rejects.toThrow('of many');
      for (const n of [4, 5]) void add(`few ${n}`, `few ${n}`, new Caller(few));
      void add('many', 'many 2', new Caller(many));
      for (const end of ends.splice(0)) end();
      await delay(0);
      for (const end of ends.splice(0)) end();
      await delay(0);
      for (const names of statements.slice(4)) {
        expect(new Set(names.map((name) => name.split(' ')[0])).size).toBe(1);
      }
      expect(statements.flat()).toEqual(expect.arrayContaining(['many 2', 'few 4', 'few 5']));
    });

    it('gives nothing for the time in which the share of a tenant was in use', async () => {
      const { add, end, ends, statements } = aQueue({ slots: 2 }, false);
      void add('0', 'few 0', new Caller(few));
      await end();
      for (let n = 0; n < 20; n += 1) void add(`${n}`, `many ${n}`, new Caller(many));
      const [slow] = ends.splice(0, 1);
      for (let n = 1; n < 40; n += 1) {
        void add(`${n}`, `few ${n}`, new Caller(few));
        if (n <= 20) await end();
      }
      slow?.();
      for (let n = 0; n < 6; n += 1) await end();
      const last = statements.slice(-6).flat();
      expect(last.filter((name) => name.startsWith('many'))).toHaveLength(3);
    });

    it('leaves as much of the queue free as one tenant takes', async () => {
      const { add } = aQueue({ slots: 1, max: 10 }, false);
      const refused = async (request: Promise<void>) => {
        const outcome = await Promise.race([request.catch((error: unknown) => error), delay(0, 'waits')]);
        return outcome instanceof QueueFullError;
      };
      void add('0', 'few', new Caller(few));
      const ofMany: boolean[] = [];
      for (let n = 0; n < 8; n += 1) ofMany.push(await refused(add(`${n}`, `${n}`, new Caller(many))));
      expect(ofMany).toEqual([...Array<boolean>(5).fill(false), ...Array<boolean>(3).fill(true)]);
      expect(await refused(add('1', 'few', new Caller(few)))).toBe(false);
      expect(await refused(add('1', 'third', new Caller('third')))).toBe(false);
    });

    it('lets a tenant alone fill the queue', async () => {
      const { add } = aQueue({ slots: 1, max: 4 }, false);
      for (let n = 0; n < 5; n += 1) void add(`${n}`, `${n}`, new Caller(many));
      await expect(add('5', '5', new Caller(many))).rejects.toThrow('4 requests wait');
    });
  });

  describe('a caller that goes away', () => {
    it('leaves the queue, and makes room for another', async () => {
      const { add, end, statements } = aQueue({ slots: 1, max: 1 });
      const caller = new Caller();
      void add('a', '1');
      const second = add('b', '2', caller);
      caller.leave();
      await expect(second).rejects.toThrow('The client went away');
      void add('c', '3');
      await end();
      expect(statements).toEqual([['1'], ['3']]);
    });

    it('leaves a thread whose merged request is under way', async () => {
      const { add, end, statements } = aQueue();
      const caller = new Caller();
      void add('a', '1');
      const second = add('a', '2', caller);
      void add('a', '3');
      caller.leave();
      await expect(second).rejects.toThrow('The client went away');
      await end();
      expect(statements).toEqual([['1'], ['3']]);
    });

    it('is not even asked for when it is gone already, and what was begun goes on', async () => {
      const { add, end, statements } = aQueue();
      const caller = new Caller();
      const first = add('a', '1', caller);
      caller.leave();
      await end();
      await first;
      await expect(add('a', '2', caller)).rejects.toThrow('The client went away');
      expect(statements).toEqual([['1']]);
    });
  });

  it('begins nothing while it is held', () => {
    let isHeld = true;
    const { add, statements, queue } = aQueue({ isHeld: () => isHeld }, false);
    for (const name of ['1', '2', '3', '4']) void add(name, name);
    expect(statements).toEqual([]);
    isHeld = false;
    queue.begin();
    expect(statements).toHaveLength(4);
  });

  it('begins what stores while it is held, and while its tenant is', () => {
    const order: string[] = [];
    const queue = new RequestQueue({
      ...{
        slots: 4,
        max: 9,
        tenantSlots: null,
        waitMs: A_WHILE_MS,
        lockWaitMs: A_WHILE_MS,
        merge: true,
        giveUp: () => null,
      },
      ...{ isHeld: () => true, isTenantHeld: () => true },
    });
    const kind = (name: string, isStore: boolean): Kind<string> => ({
      isStore,
      run: () => {
        order.push(name);
        return new Promise(() => undefined);
      },
    });
    void queue.add(kind('read', false), 'a', '');
    void queue.add(kind('store', true), 'a', '');
    expect(order).toEqual(['store']);
  });

  it('begins nothing for a tenant that is held, and goes on with the others', () => {
    let held = 'many';
    const { add, statements, queue } = aQueue({ isTenantHeld: (tenant) => tenant === held }, false);
    void add('1', 'many', new Caller('many'));
    void add('1', 'few', new Caller('few'));
    expect(statements).toEqual([['few']]);
    held = '';
    queue.begin();
    expect(statements).toEqual([['few'], ['many']]);
  });

  it('begins kinds in the order in which their requests came', async () => {
    const order: string[] = [];
    let end: () => void = () => undefined;
    const queue = new RequestQueue({
      ...{ slots: 1, max: 9, tenantSlots: null },
      ...{ waitMs: A_WHILE_MS, lockWaitMs: A_WHILE_MS, merge: true, giveUp: () => null },
    });
    const kinds = ['put', 'get'].map((kind): Kind<string> => ({
      run: ([name]) => {
        order.push(`${kind} ${name ?? ''}`);
        return new Promise((resolve) => (end = resolve));
      },
    }));
    for (const [at, name] of [0, 1, 0, 1].entries())
      void queue.add(kinds[name] as Kind<string>, `${at}`, `${at}`);
    for (let n = 0; n < 4; n += 1) {
      end();
      await delay(0);
    }
    expect(order).toEqual(['put 0', 'get 1', 'put 2', 'get 3']);
  });

  it('fails a request alone, and stores the others', async () => {
    const { add, end, statements } = aQueue();
    void add('a', '1');
    void add('b', '2');
    const outcomes = ['3', '4', '5'].map((name) =>
      add(name, name).then(
        () => 'done',
        (error: unknown) => (error as Error).message,
      ),
    );
    await end();
    await end();
    await end(new Error('of the three'));
    await end();
    await end(new Error('of 4'));
    await end();
    expect(statements.slice(2)).toEqual([['3', '4', '5'], ['3'], ['4'], ['5']]);
    expect(await Promise.all(outcomes)).toEqual(['done', 'of 4', 'done']);
  });

  it('finds the one that is to blame among many with few statements', async () => {
    const { add, ends, statements } = aQueue();
    void add('a', '1');
    void add('b', '2');
    const outcomes = Promise.allSettled(Array.from({ length: 64 }, (_, n) => add(`${n}`, `${n}`)));
    const [first, second] = ends.splice(0, 2) as [() => void, () => void];
    first();
    second();
    await delay(0);
    // Whatever holds 40 fails.
    for (let at = 2; at < statements.length; at += 1) {
      ends.shift()?.(statements[at]?.includes('40') === true ? new Error('of 40') : undefined);
      await delay(0);
    }
    const settled = await outcomes;
    expect(settled.flatMap(({ status }, n) => (status === 'rejected' ? [n] : []))).toEqual([40]);
    expect(statements.length).toBeLessThan(2 + 1 + 8 + 8 + 1);
  });

  describe('a read that finds no memory', () => {
    it('begins again when no large read is under way, and one by one', async () => {
      let isReading = true;
      const { add, end, statements, queue } = aQueue({ isReading: () => isReading });
      const reads = [add('a', 'a'), add('b', 'b')];
      await end(new NoRoomError());
      await end(new NoRoomError());
      await delay(100);
      expect(statements).toHaveLength(2);
      void add('c', 'another');
      expect(statements).toEqual([['a'], ['b'], ['another']]);
      isReading = false;
      queue.begin();
      expect(statements.slice(3)).toHaveLength(1);
      await end();
      expect(statements.slice(3)).toHaveLength(1);
      await end();
      expect(statements.slice(3).flat().sort()).toEqual(['a', 'b']);
      await end();
      await Promise.all(reads);
    });

    it('does not wait for those that are younger, and keeps its age', async () => {
      const large = [0];
      const isReading = (since: number) => large.some((at) => at < since);
      const { add, end, statements, since, queue } = aQueue({ isReading });
      const read = add('a', 'a');
      await end(new NoRoomError());
      await delay(60);
      expect(statements).toHaveLength(1);
      void add('b', 'younger');
      large.splice(0, 1, since.at(-1) ?? 0);
      queue.begin();
      expect(statements).toEqual([['a'], ['younger'], ['a']]);
      expect(since[2]).toBeLessThan(since[1] ?? 0);
      await end();
      await end();
      await read;
    });

    it('is refused after a while', async () => {
      const { add, end } = aQueue({ isReading: () => true, lockWaitMs: 100 });
      const read = add('a', 'a');
      await end(new NoRoomError());
      await expect(read).rejects.toThrow('Other reads took INFLIGHT_BYTES for over 100 ms');
    });
  });

  describe('a request that comes upon a lock', () => {
    const locked = Object.assign(new Error('canceling statement due to lock timeout'), { code: '55P03' });

    it('gives its connection back, and is sent again until it is had', async () => {
      const { add, end, statements } = aQueue({ slots: 1 }, false);
      const first = add('a', 'locked');
      void add('b', 'other');
      await end(locked);
      expect(statements.map(([name]) => name).sort()).toEqual(['locked', 'locked']);
      await end(locked);
      expect(statements.at(-1)).toEqual(['other']);
      await end();
      while (statements.length < 4) await delay(5);
      await end();
      await first;
      expect(statements.map(([name]) => name)).toEqual(['locked', 'locked', 'other', 'locked']);
    });

    it('is given up after its time, and its thread goes on', async () => {
      const { add, ends, statements } = aQueue({ lockWaitMs: 100 });
      const first = add('a', 'locked');
      const second = add('a', 'next');
      const loop = (async () => {
        while (!statements.some(([name]) => name === 'next')) {
          ends.shift()?.(locked);
          await delay(5);
        }
      })();
      await expect(first).rejects.toThrow('locked for over 100 ms');
      await loop;
      ends.shift()?.();
      await second;
    });

    it('goes alone when the statement says that it was not carried out, and keeps the order of its thread', async () => {
      const modes: [string[], boolean][] = [];
      const busy = new Set(['locked']);
      const ends: (() => void)[] = [];
      const kind: Kind<string> = {
        run: async (names, { isShared }) => {
          modes.push([names, isShared]);
          await new Promise<void>((resolve) => ends.push(resolve));
          return new Set(isShared ? names.filter((name) => busy.has(name)) : []);
        },
        merge: { slotsOf: (name) => [name], rowsOf: () => 1, bytesOf: () => 1 },
      };
      const options = { slots: 10, max: 1000, tenantSlots: null, waitMs: A_WHILE_MS, lockWaitMs: A_WHILE_MS };
      const queue = new RequestQueue({ ...options, merge: true, giveUp: () => null });
      const end = async () => {
        ends.shift()?.();
        await delay(0);
      };
      for (const name of ['1', '2']) void queue.add(kind, name, name);
      const outcomes = ['good', 'locked'].map((name) => queue.add(kind, name, name));
      await end();
      expect(modes.at(-1)).toEqual([['good', 'locked'], true]);
      const later = queue.add(kind, 'locked', 'later');
      await end();
      await end();
      await outcomes[0];
      expect(modes.slice(3)).toEqual([[['locked'], false]]);
      await end();
      await outcomes[1];
      expect(modes.slice(4)).toEqual([[['later'], false]]);
      await end();
      await later;
    });

    it('takes at most half of the connections, of one tenant a quarter once there are others', async () => {
      const { add, ends, statements } = aQueue({ slots: 8 }, false);
      const lockAll = async () => {
        for (const end of ends.splice(0)) end(locked);
        await delay(0);
      };
      for (let n = 0; n < 8; n += 1) void add(`${n}`, `locked ${n}`);
      await lockAll();
      expect(statements).toHaveLength(8 + 4);
      for (let n = 0; n < 4; n += 1) void add('free', `free ${n}`);
      expect(statements).toHaveLength(8 + 4 + 4);
      const shared = aQueue({ slots: 8 }, false);
      void shared.add('0', 'few', new Caller('few'));
      for (let n = 0; n < 7; n += 1) void shared.add(`${n}`, `locked ${n}`, new Caller('many'));
      for (const end of shared.ends.splice(0)) end(locked);
      await delay(0);
      expect(shared.statements.slice(8).filter(([name]) => name?.startsWith('locked'))).toHaveLength(2);
      expect(shared.statements.slice(8).filter(([name]) => name === 'few')).toHaveLength(1);
    });

    it('goes before those that came upon more locks', async () => {
      const { add, ends, statements } = aQueue({ slots: 2 }, false);
      const lock = async (at: number) => {
        ends.splice(at, 1)[0]?.(locked);
        await delay(0);
      };
      for (const name of ['old 1', 'old 2']) void add(name, name);
      await lock(0);
      await lock(0);
      await lock(0);
      expect(statements.at(-1)).toEqual(['old 2']);
      await delay(100); // until the first one might begin
      void add('new', 'new');
      await lock(1);
      await lock(0);
      expect(statements.slice(-2)).toEqual([['new'], ['new']]);
    });

    it('leaves when its caller does', async () => {
      const { add, end, statements } = aQueue({ slots: 1 }, false);
      const caller = new Caller();
      const first = add('a', 'locked', caller);
      await end(locked);
      await end(locked);
      caller.leave();
      await expect(first).rejects.toThrow('The client went away');
      await delay(150);
      expect(statements).toHaveLength(2);
    });
  });

  it('carries out the requests of a serial kind one after the other in each thread', async () => {
    const statements: string[] = [];
    const ends: (() => void)[] = [];
    const kind: Kind<string> = {
      run: async ([name = '']) => {
        statements.push(name);
        await new Promise<void>((resolve) => ends.push(resolve));
      },
      isSerial: true,
    };
    const options = { slots: 10, max: 1000, tenantSlots: null, waitMs: A_WHILE_MS, lockWaitMs: A_WHILE_MS };
    const queue = new RequestQueue({ ...options, merge: true, giveUp: () => null });
    for (const name of ['a1', 'a2', 'b1']) void queue.add(kind, name.slice(0, 1), name);
    expect(statements).toEqual(['a1', 'b1']);
    ends.shift()?.();
    await delay(0);
    expect(statements).toEqual(['a1', 'b1', 'a2']);
  });

  it('fails all of them when that says nothing of one', async () => {
    const { add, end, statements } = aQueue();
    for (const name of ['1', '2']) void add(name, name);
    const outcomes = Promise.allSettled(['3', '4'].map((name) => add(name, name)));
    await end();
    await end();
    await end(new QueueFullError('no database'));
    expect((await outcomes).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(statements).toHaveLength(3);
  });

  it('has a place for a tenant of which nothing waits, though another has filled it before there were two', async () => {
    const { add, end, ends, statements } = aQueue({ slots: 1, max: 3 }, false);
    const [many, few] = ['many', 'few'].map((name) => () => new Caller(name));
    for (let n = 0; n < 4; n += 1) void add(`${n}`, `${n}`, many!());
    await expect(add('4', '4', many!())).rejects.toThrow(QueueFullError);
    void add('5', 'of few', few!());
    await expect(add('6', '6', few!())).rejects.toThrow(QueueFullError);
    while (ends.length > 0) await end();
    expect(statements.flat().toSorted()).toEqual(['0', '1', '2', '3', 'of few']);
  });

  it('refuses more than may wait', async () => {
    const { add, end } = aQueue({ slots: 1, max: 1 });
    void add('a', '1');
    void add('b', '2');
    await expect(add('c', '3')).rejects.toThrow(QueueFullError);
    await end();
    void add('c', '3');
  });

  it('gives a request up that waited too long, and begins the next', async () => {
    const { add, end, statements } = aQueue({ slots: 1, max: 1, waitMs: 20 });
    const first = add('a', '1');
    await expect(add('b', '2')).rejects.toThrow('waited too long');
    const third = add('b', '3');
    await end();
    await first;
    expect(statements).toEqual([['1'], ['3']]);
    await end();
    await third;
  });

  it('waits on while giveUp has no reason', async () => {
    let reason: Error | null = null;
    const { add, statements } = aQueue({ slots: 1, waitMs: 5, giveUp: () => reason });
    void add('a', '1');
    const second = add('b', '2');
    await expect(Promise.race([second, delay(50, 'waits')])).resolves.toBe('waits');
    reason = new Error('enough');
    await expect(second).rejects.toThrow('enough');
    expect(statements).toEqual([['1']]);
  });
});
