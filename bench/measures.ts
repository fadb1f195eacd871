import type { Sample } from './part.js';

/** What a sample says; null where that could not be measured. */
export const MEASURES = {
  'operations/s': ({ operationsPerSecond }: Sample) => operationsPerSecond,
  'p50, ms': ({ latencyMs }: Sample) => latencyMs && latencyMs.p50,
  'p95, ms': ({ latencyMs }: Sample) => latencyMs && latencyMs.p95,
  'p99, ms': ({ latencyMs }: Sample) => latencyMs && latencyMs.p99,
  'service CPU, µs': ({ serviceCpuUs, operations }: Sample) => serviceCpuUs && serviceCpuUs / operations,
  'Postgres CPU, µs': ({ postgresCpuUs, operations }: Sample) => postgresCpuUs && postgresCpuUs / operations,
  'resident, MB': ({ residentBytes }: Sample) => residentBytes && residentBytes / 1e6,
  'peak, MB': ({ peakBytes }: Sample) => peakBytes && peakBytes / 1e6,
};
export type Measure = keyof typeof MEASURES;
