import { numericText } from './numeric-text.js';

describe('numericText', () => {
  it.each([
    ['1', '1'],
    ['1.0', '1.0'],
    ['-0.0', '0.0'],
    ['-0', '0'],
    ['1e3', '1000'],
    ['1.5e3', '1500'],
    ['1.50e1', '15.0'],
    ['1e-7', '0.0000001'],
    ['-12.5E-1', '-1.25'],
    ['100e-2', '1.00'],
    ['0e5', '0'],
    ['12345678901234567890.10', '12345678901234567890.10'],
  ])('prints %s as %s', (literal, text) => {
    expect(numericText(literal)).toBe(text);
  });

  it('refuses what no key could hold', () => {
    expect(numericText('1e999999999')).toBeNull();
    expect(numericText('1e-999999999')).toBeNull();
    expect(numericText('1'.repeat(3000))).toBeNull();
  });

  it('takes every double, and refuses exponents that would make much of little', () => {
    expect(numericText('1.7976931348623157e308')).toHaveLength(309);
    expect(numericText('5e-324')).toHaveLength(326);
    expect(numericText('1e2590')).toBeNull();
    expect(numericText('1e-2590')).toBeNull();
  });
});
