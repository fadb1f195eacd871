import { readFileSync } from 'node:fs';
import { charts } from '../bench/charts.js';

it.each(charts())('%s shows what docs/explain/benchmarks-raw.md says', (path, svg) => {
  expect(readFileSync(path, 'utf8')).toBe(svg);
});
