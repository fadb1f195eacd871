import { jest } from '@jest/globals';
import { type Kind, RefusalBudget, type Refused } from './refusal-budget.js';

const refused = (tenant: string | null, reason: string): Refused => ({ tenant, detail: { reason } });

describe('RefusalBudget', () => {
  let written: Refused[];
  let counts: Kind[];
  let budget: RefusalBudget<Refused>;
  beforeEach(() => {
    jest.useFakeTimers();
    written = [];
    counts = [];
    budget = new RefusalBudget(
      (event) => written.push(event),
      (kind) => counts.push(kind),
    );
  });
  afterEach(() => {
    jest.useRealTimers();
  });

  it('writes the first of a flood, then how many more there were, and the first of the next', () => {
    for (let n = 0; n < 25; n += 1) budget.take(refused('a', 'no scope'));
    expect(written).toHaveLength(10);
    jest.advanceTimersByTime(10_000);
    expect(counts).toEqual([expect.objectContaining({ tenant: 'a', reason: 'no scope', more: 15 })]);
    budget.take(refused('a', 'no scope'));
    expect(written).toHaveLength(11);
  });

  it.each([
    ['another tenant', refused('b', 'no scope')],
    ['another reason', refused('a', 'x-tenant')],
    ['nobody known', refused(null, 'no scope')],
  ])('hides no refusal of %s behind a flood', (_, other) => {
    for (let n = 0; n < 1000; n += 1) budget.take(refused('a', 'no scope'));
    budget.take(other);
    expect(written).toContain(other);
  });

  it('hides none of a known tenant behind any number of reasons of nobody known, which it bounds', () => {
    for (let n = 0; n < 10_000; n += 1) budget.take(refused(null, `reason ${n}`));
    expect(written.length).toBeLessThanOrEqual(110);
    const other = refused('a', 'no scope');
    budget.take(other);
    expect(written).toContain(other);
    jest.advanceTimersByTime(10_000);
    expect(counts).toEqual([expect.objectContaining({ tenant: null, more: 9890 })]);
  });
});
