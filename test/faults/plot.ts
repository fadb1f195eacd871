import type { Sample } from './report.js';

const [WIDTH, HEIGHT, LEFT, GAP] = [900, 150, 70, 45];

/** Memory, p50 and p99 over time, each below the other, with a line where a fault began. */
export function plot(samples: Sample[]): string {
  const end = samples.at(-1)?.seconds ?? 1;
  const x = (seconds: number) => (LEFT + (seconds / end) * WIDTH).toFixed(1);
  const panels = [
    {
      title: 'resident memory of the service, MB',
      of: (sample: Sample) => (sample.residentBytes ?? 0) / 1e6,
    },
    { title: 'p50, ms', of: (sample: Sample) => sample.p50 },
    { title: 'p99, ms', of: (sample: Sample) => sample.p99 },
  ].map(({ title, of }, n) => {
    const top = GAP + n * (HEIGHT + GAP);
    const max = Math.max(1, ...samples.map(of));
    const points = samples.map(
      (sample) => `${x(sample.seconds)},${(top + HEIGHT - (of(sample) / max) * HEIGHT).toFixed(1)}`,
    );
    return `<text x="${LEFT}" y="${top - 8}">${title}</text>
<text x="${LEFT - 6}" y="${top + 10}" text-anchor="end">${max.toFixed(0)}</text>
<text x="${LEFT - 6}" y="${top + HEIGHT}" text-anchor="end">0</text>
<rect x="${LEFT}" y="${top}" width="${WIDTH}" height="${HEIGHT}" fill="none" stroke="#bbb"/>
${samples
  .filter(({ fault }) => fault !== '')
  .map(
    ({ seconds, fault }) =>
      `<path d="M${x(seconds)} ${top}v${HEIGHT}" stroke="#e0a0a0"><title>${fault}</title></path>`,
  )
  .join('\n')}
<polyline points="${points.join(' ')}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>`;
  });
  const height = GAP + panels.length * (HEIGHT + GAP);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${LEFT + WIDTH + 20} ${height}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#fff"/>
${panels.join('\n')}
<text x="${LEFT + WIDTH}" y="${height - 12}" text-anchor="end">${(end / 60).toFixed(0)} minutes</text>
</svg>
`;
}
