import { table } from '../table.js';

/** What the programs read. */
export interface AgingTask {
  serviceUrl: string;
  /** 1: in full length. */
  scale: number;
}

/** A line that they print. */
export interface Aging {
  phase: string;
  /** What was done since the first sample of the phase. */
  done: number;
  /** Resident memory. */
  mb: number;
  /** What of it is the heap of JavaScript, after a collection. */
  heapMb?: number;
  /** Open files and connections. */
  descriptors: number;
}

/** A table in Markdown: of each phase the figures of all its samples. */
export function agingTable(samples: Map<string, Aging[]>): string {
  const rows = [...samples].flatMap(([language, all]) =>
    [...new Set(all.map(({ phase }) => phase))].map((phase) => {
      const own = all.filter((one) => one.phase === phase);
      const series = (of: (one: Aging) => number | undefined) =>
        own.map((one) => of(one)?.toFixed(0) ?? '–').join(', ');
      const heap = own.some((one) => one.heapMb !== undefined) ? series((one) => one.heapMb) : '–';
      const done = String(own.at(-1)?.done);
      return [language, phase, done, series((one) => one.mb), heap, series((one) => one.descriptors)];
    }),
  );
  const header = ['', 'what', 'how many', 'resident MB', 'heap MB', 'descriptors'];
  return table(header, rows);
}
