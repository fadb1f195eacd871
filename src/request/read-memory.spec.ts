import { ReadMemory } from './read-memory.js';

const MIB = 1024 * 1024;

describe('the memory of reads', () => {
  let room: number;
  let refused: number[];
  let held: string;
  let memory: ReadMemory;
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
    const [small, large] = [memory.begin('a'), memory.begin('a')];
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
    const [oldest, other, small] = [memory.begin('a'), memory.begin('a'), memory.begin('a')];
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
    const [oldest, next] = [memory.begin('a'), memory.begin('a')];
    oldest.take(8 * MIB);
    next.take(8 * MIB);
    oldest.end();
    expect(next.take(100 * MIB)).toBe(true);
  });

  it('is not for the oldest read either when answers take what they may, unless there is room', () => {
    const [of, ofOther] = [memory.begin('held'), memory.begin('a')];
    held = 'held';
    expect(of.take(16 * MIB)).toBe(true);
    expect(of.take(1)).toBe(false);
    expect(ofOther.take(100 * MIB)).toBe(true);
  });

  it('is less by what answers take', () => {
    const [oldest, next] = [memory.begin('a'), memory.begin('a')];
    oldest.take(2 * MIB);
    room = 3 * MIB;
    expect(next.take(2 * MIB)).toBe(false);
  });
});
