import type { Metric, Registry } from 'prom-client';

/** How the values of several processes become one. */
export type Aggregator = 'sum' | 'max' | 'first';

export interface Sample {
  labels: Record<string, string>;
  value: number;
  /** Of a histogram: the metric's name with its suffix. */
  metricName?: string;
}

/** A metric as prom-client's registry hands it on, which is also how processes send it to each other. */
export interface MetricSnapshot {
  name: string;
  help: string;
  type: 'counter' | 'gauge' | 'histogram';
  aggregator: Aggregator;
  values: Sample[];
}

/** Registers a metric whose values are only made when somebody asks for them. */
export function register(
  registry: Registry,
  metric: Omit<MetricSnapshot, 'values'>,
  values: () => Sample[],
): void {
  const get = () => Promise.resolve({ ...metric, values: values() });
  // All that the registry asks of a metric, as prom-client's own aggregation does; its types want one of its classes.
  registry.registerMetric({ ...metric, get } as unknown as Metric);
}

/** What a histogram counts; a value costs some nanoseconds. */
export class Distribution {
  private readonly counts: Float64Array;
  private sum = 0;

  /** `bounds` are inclusive, and ascend. */
  constructor(private readonly bounds: readonly number[]) {
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    let at = 0;
    while (value > (this.bounds[at] ?? Infinity)) at += 1;
    this.counts[at] = (this.counts[at] ?? 0) + 1;
    this.sum += value;
  }

  samples(name: string, labels: Record<string, string> = {}): Sample[] {
    let count = 0;
    const buckets = [...this.bounds, '+Inf'].map((le, at) => ({
      metricName: `${name}_bucket`,
      labels: { ...labels, le: String(le) },
      value: (count += this.counts[at] ?? 0),
    }));
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: this.sum },
      { metricName: `${name}_count`, labels, value: count },
    ];
  }
}

/** Counts by one label. Those that are given are there from the start, so that a first increase is seen as one. */
export class Tally<Value extends string> {
  private readonly counts = new Map<Value, number>();

  constructor(
    private readonly label: string,
    values: readonly Value[],
  ) {
    for (const value of values) this.counts.set(value, 0);
  }

  add(value: Value): void {
    this.counts.set(value, (this.counts.get(value) ?? 0) + 1);
  }

  samples(): Sample[] {
    return [...this.counts].map(([label, value]) => ({ labels: { [this.label]: label }, value }));
  }
}
