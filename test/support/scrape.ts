export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** What /metrics served. */
export interface Scrape {
  samples: Sample[];
  /** The value of the sample with just these labels, its name without our prefix; NaN when there is none. */
  value: (name: string, labels?: Record<string, string>) => number;
}

/** Reads Prometheus's text form. @throws Error at a line that has none */
export function scrapeOf(text: string): Scrape {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const samples = lines.map((line) => {
    const [, name, labels = '', value] = /^([a-zA-Z_:]\w*)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
    if (name === undefined) throw new Error(`Not a sample: ${line}`);
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key = '', text = '']) => [
      key,
      text,
    ]);
    return { name, labels: Object.fromEntries(pairs) as Record<string, string>, value: Number(value) };
  });
  const key = (labels: Record<string, string>) => JSON.stringify(Object.entries(labels).sort());
  return {
    samples,
    value: (name, labels = {}) =>
      samples.find((s) => s.name === `checkpoint_backend_${name}` && key(s.labels) === key(labels))?.value ??
      NaN,
  };
}
