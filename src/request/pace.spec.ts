import { PaceClock } from './pace.js';

describe('the clock of paces', () => {
  it('goes on with each look, and over a time without any by no more than two', () => {
    const clock = new PaceClock(500);
    const begin = clock.at(10_000);
    expect(clock.at(10_500) - begin).toBe(500);
    expect(clock.at(11_400) - begin).toBe(1400);
    expect(clock.at(99_000) - begin).toBe(2400);
    expect(clock.at(99_500) - begin).toBe(2900);
  });
});
