import { jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { Metrics } from '../../observability/metrics/metrics.js';
import type { NewCheckpoint } from '../domain/checkpoint.js';
import { PutOrder } from './put-order.js';

const put = (checkpointId: string, parentCheckpointId: string | null) =>
  ({ key: { checkpointId }, parentCheckpointId }) as unknown as NewCheckpoint;

describe('PutOrder', () => {
  it.each([
    ['b', 'a', 0],
    ['a', 'b', 1],
    ['a', 'a', 1],
    ['a', null, 0],
    ['a', '', 0],
    ['10', '9', 1],
    ['\u{1f600}', '\uffee', 0], // above by its bytes, below by its UTF-16
    ['\uffee', '\u{1f600}', 1],
  ])('counts %j after %j: %i', (id, parent, count) => {
    const metrics = { putsNotAboveParent: 0 } as Metrics;
    new PutOrder(metrics).look(put(id, parent));
    expect(metrics.putsNotAboveParent).toBe(count);
  });

  it('writes a line a minute', () => {
    const warn = jest.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    const now = jest.spyOn(performance, 'now').mockReturnValue(0);
    const order = new PutOrder({ putsNotAboveParent: 0 } as Metrics);
    for (let n = 0; n < 1000; n += 1) order.look(put('a', 'b'));
    now.mockReturnValue(60_000);
    order.look(put('a', 'b'));
    expect(warn.mock.calls.map(([line]) => String(line).split(' ')[0])).toEqual(['1', '1000']);
    jest.restoreAllMocks();
  });
});
