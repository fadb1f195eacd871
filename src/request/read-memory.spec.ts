import { ReadMemory } from './read-memory.js';

const MIB = 1024 * 1024;

describe('the memory of reads', () => {
  let room: number;
  let refused: number[];
  let held: string;
  let memory: ReadMemory;
  let time = 0;
  const begin = (tenant = 'a', since = (time += 1)) => memory.begin({ tenant, since });
  beforeEach(() => {
    room = 16 * MIB;
    refused = [];
    held = '';
    memory = new ReadMemory(64 * MIB, {
      roomBytes: () => room,
      areAnswersHeld: (tenant) => tenant === held,
      onRefused: (bytes) => refused.push(bytes),
    });
  });

  it('counts what large reads took, and nothing of small ones', () => {
    const [small, large] = [begin(), begin()];
    expect(small.take(MIB)).toBe(true);
    expect(memory.totalBytes).toBe(0);
    expect(large.take(MIB)).toBe(true);
    expect(large.take(1)).toBe(true);
    expect(memory.totalBytes).toBe(MIB + 1);
    large.end();
    expect(memory.totalBytes).toBe(0);
    large.end();
    small.end();
    expect(memory.totalBytes).toBe(0);
  });

  it('is for the oldest read, however much it takes, and refuses the others for good what they have', () => {
    const [oldest, other, small] = [begin(), begin(), begin()];
    expect([oldest.take(2 * MIB), other.take(10 * MIB), oldest.take(9 * MIB)]).toEqual([true, true, true]);
    expect(other.take(1)).toBe(false);
    expect(refused).toEqual([10 * MIB + 1]);
    expect(memory.totalBytes).toBe(11 * MIB);
    expect(oldest.take(100 * MIB)).toBe(true);
    expect(small.take(MIB)).toBe(true);
    oldest.end();
    // What came before is gone.
    expect(other.take(1)).toBe(false);
    expect(memory.totalBytes).toBe(0);
  });

  it('is the next one’s when the oldest read has ended', () => {
    const [oldest, next] = [begin(), begin()];
    oldest.take(8 * MIB);
    next.take(8 * MIB);
    oldest.end();
    expect(next.take(100 * MIB)).toBe(true);
  });

  it('is for the oldest by age, also when that begins again', () => {
    const [first, second] = [begin(), begin()];
    first.take(16 * MIB);
    expect(second.take(2 * MIB)).toBe(false);
    expect(memory.hasOlder(second.since)).toBe(true);
    const third = begin();
    expect(third.take(2 * MIB)).toBe(false);
    first.end();
    const fourth = begin();
    expect(fourth.take(16 * MIB)).toBe(true);
    expect(memory.hasOlder(second.since)).toBe(false);
    const again = begin('a', second.since);
    expect(again.take(2 * MIB)).toBe(true);
    expect(fourth.take(1)).toBe(false);
    expect(again.take(100 * MIB)).toBe(true);
  });

  it('is not for the oldest read either when answers take what they may, unless there is room', () => {
    const [of, ofOther] = [begin('held'), begin()];
    held = 'held';
    expect(of.take(16 * MIB)).toBe(true);
    expect(of.take(1)).toBe(false);
    expect(ofOther.take(100 * MIB)).toBe(true);
  });

  it('is less by what answers take', () => {
    const [oldest, next] = [begin(), begin()];
    oldest.take(2 * MIB);
    room = 3 * MIB;
    expect(next.take(2 * MIB)).toBe(false);
  });
});
