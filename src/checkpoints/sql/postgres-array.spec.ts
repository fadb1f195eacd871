import { Pieces } from '../../database/binary-client.js';
import { byteaArray, intArray, textArray } from './postgres-array.js';

describe('byteaArray', () => {
  it("is what array_send makes of array['\\xff00', null, '']::bytea[]", () => {
    expect(byteaArray([Buffer.from([0xff, 0]), null, Buffer.alloc(0)])).toEqual(
      Buffer.from(
        '00000001' +
          '00000001' +
          '00000011' +
          '00000003' +
          '00000001' +
          '00000002ff00' +
          'ffffffff' +
          '00000000',
        'hex',
      ),
    );
  });

  it('may be empty', () => {
    expect((byteaArray([]) as Buffer).readInt32BE(12)).toBe(0);
  });

  it('does not copy what is large, and is the same in pieces', () => {
    const large = Buffer.alloc(64 * 1024, 7);
    const small = byteaArray([Buffer.from([1]), null, large.subarray(1)]) as Buffer;
    const { pieces } = byteaArray([Buffer.from([1]), null, large]) as Pieces;
    expect(pieces).toContain(large);
    const whole = Buffer.concat(pieces);
    expect(whole.subarray(0, small.length - large.length - 3)).toEqual(
      small.subarray(0, small.length - large.length - 3),
    );
    expect(whole.subarray(-large.length - 4)).toEqual(Buffer.concat([Buffer.from([0, 1, 0, 0]), large]));
  });
});

describe('intArray', () => {
  it('is what array_send makes of array[1, -2147483648]', () => {
    expect(intArray([1, -(2 ** 31)]).toString('hex')).toBe(
      '00000001' +
        '00000000' +
        '00000017' +
        '00000002' +
        '00000001' +
        '0000000400000001' +
        '0000000480000000',
    );
  });
});

describe('textArray', () => {
  it.each([1, 128, 129, 1000])(
    'holds texts of %i characters of each length in UTF-8, and nothing else',
    (length) => {
      const texts = ['a', 'é', '漢'].map((character) => character.repeat(length));
      const lengthAnd = (text: string) => {
        const bytes = Buffer.from(text);
        return Buffer.concat([Buffer.from([0, 0, bytes.length >> 8, bytes.length & 0xff]), bytes]);
      };
      const header = Buffer.from('0000000100000001000000190000000400000001', 'hex');
      expect(textArray([...texts, null])).toEqual(
        Buffer.concat([header, ...texts.map(lengthAnd), Buffer.from('ffffffff', 'hex')]),
      );
    },
  );
});
