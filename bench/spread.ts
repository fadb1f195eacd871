/** Over the rounds; null when no round has a value. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spreadOf(values: (number | null)[]): Spread | null {
  const sorted = values.filter((value) => value !== null).toSorted((a, b) => a - b);
  const [min, max] = [sorted.at(0), sorted.at(-1)];
  if (min === undefined || max === undefined) return null;
  const middle = sorted.length / 2;
  const median = ((sorted[Math.ceil(middle - 1)] ?? min) + (sorted[Math.floor(middle)] ?? max)) / 2;
  return { median, min, max };
}

/** Such as `1.84 (1.45–2.06)`, the median and the range. */
export function shown(spread: Spread | null): string {
  if (spread === null) return '–';
  const { median, min, max } = spread;
  const digits = median >= 100 ? 0 : median >= 10 ? 1 : 2;
  const [a, b, c] = [median, min, max].map((value) => value.toFixed(digits));
  return min === max ? `${a}` : `${a} (${b}–${c})`;
}
