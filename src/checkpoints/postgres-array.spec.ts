import { byteaArray } from './postgres-array.js';

describe('byteaArray', () => {
  it("is what array_send makes of array['\\xff00', null, '']::bytea[]", () => {
    expect(byteaArray([Buffer.from([0xff, 0]), null, Buffer.alloc(0)]).toString('hex')).toBe(
      '00000001' +
        '00000001' +
        '00000011' +
        '00000003' +
        '00000001' +
        '00000002ff00' +
        'ffffffff' +
        '00000000',
    );
  });

  it('may be empty', () => {
    expect(byteaArray([]).readInt32BE(12)).toBe(0);
  });
});
