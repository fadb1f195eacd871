import { AggregatorRegistry, type Registry } from 'prom-client';
import type { MetricSnapshot } from './instruments.js';

/** What counts upwards only, and so must not go down when the process that counted it has ended. */
const ADDED_UP = new Set<MetricSnapshot['type']>(['counter', 'histogram']);

/** The metrics of several processes, as one. */
export class MetricsSum {
  private readonly last = new Map<number, MetricSnapshot[]>();
  /** The sum of what processes that have ended had counted: without it Prometheus would take their end for a restart. */
  private ended: MetricSnapshot[] = [];

  /** What the process counts now. */
  set(process: number, snapshot: MetricSnapshot[]): void {
    this.last.set(process, snapshot);
  }

  /** The process has ended. */
  remove(process: number): void {
    const counted = this.last.get(process)?.filter(({ type }) => ADDED_UP.has(type)) ?? [];
    this.last.delete(process);
    this.ended = sumOf([this.ended, counted]).getMetricsAsArray() as unknown as MetricSnapshot[];
  }

  /** In Prometheus's form. */
  text(): Promise<string> {
    return sumOf([...this.last.values(), this.ended]).metrics();
  }
}

function sumOf(snapshots: MetricSnapshot[][]): Registry {
  return AggregatorRegistry.aggregate(snapshots);
}
