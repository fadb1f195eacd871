import { LimitExceededError } from '../../errors/errors.js';
import { answerOf } from './tuple.response.js';

describe('an answer', () => {
  it('that no string can hold is refused, and says why', () => {
    const tooLong = () => answerOf(() => 'x'.repeat(2 ** 29));
    expect(tooLong).toThrow(LimitExceededError);
    expect(tooLong).toThrow('The answer is over the limit of V8 = 536870888');
  });

  it('fails as its making fails', () => {
    expect(() =>
      answerOf(() => {
        throw new TypeError('a fault of ours');
      }),
    ).toThrow(TypeError);
  });
});
