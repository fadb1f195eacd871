/** What must not be; each kind has to be 0. */
export type Fault =
  /** Another tenant's bytes. */
  | 'foreign'
  /** An answer, or a row, that is not what was stored. */
  | 'wrong'
  /** An acknowledged store that no delete can have removed, and that is gone. */
  | 'lost'
  /** What was deleted is there again, or outlived its thread. */
  | 'returned'
  /** A part of a request. */
  | 'partial'
  /** A valid request that was refused, or an invalid one that was not. */
  | 'misjudged'
  /** 5xx other than 503 with `Retry-After`, or a connection that broke. */
  | 'broken';

const SHOWN_OF_A_KIND = 5;

/** What a soak has seen. */
export class Findings {
  readonly faults = new Map<Fault, number>();
  readonly examples: string[] = [];
  /** Requests by operation and status. */
  readonly answers = new Map<string, number>();
  /** Bytes of answers that were compared. */
  comparedBytes = 0;
  rounds = 0;
  checks = 0;

  fault(kind: Fault, what: string): void {
    const count = (this.faults.get(kind) ?? 0) + 1;
    this.faults.set(kind, count);
    if (count <= SHOWN_OF_A_KIND) this.examples.push(`${kind}: ${what.slice(0, 700)}`);
  }

  answered(operation: string, status: number): void {
    const key = `${operation} ${status}`;
    this.answers.set(key, (this.answers.get(key) ?? 0) + 1);
  }

  get requests(): number {
    return [...this.answers.values()].reduce((sum, count) => sum + count, 0);
  }
}
