/** So many refusals of a kind are written one by one in so long, then they are counted. */
const REFUSALS = 10;
const PERIOD_MS = 10_000;
/** Kinds that are told apart in a period, of known tenants and of nobody known; others share one. */
const MAX_KINDS = 100;

/** What there is to be known of a refusal here. */
export interface Refused {
  /** Null: nobody is known. */
  tenant: string | null;
  detail: { reason: string };
}

/** Refusals of one tenant for one reason, and how many more there were than were written. */
export interface Kind {
  tenant: string | null;
  reason: string;
  written: number;
  more: number;
}

/**
 * Which refusals are written. Each tenant has as many for each reason, and those whom nobody knows have theirs, so that a
 * flood hides none of another kind.
 */
export class RefusalBudget<Event extends Refused> {
  private readonly kinds = new Map<string, Kind>();
  private readonly count = { known: 0, unknown: 0 };
  private isCounting = false;

  constructor(
    private readonly write: (event: Event) => void,
    private readonly writeCount: (kind: Kind) => void,
  ) {}

  take(event: Event): void {
    if (!this.isCounting) {
      this.isCounting = true;
      setTimeout(() => {
        this.endPeriod();
      }, PERIOD_MS).unref();
    }
    const kind = this.kindOf(event);
    if (kind.written === REFUSALS) {
      kind.more += 1;
      return;
    }
    kind.written += 1;
    this.write(event);
  }

  private kindOf({ tenant, detail: { reason } }: Refused): Kind {
    const who = tenant === null ? 'unknown' : 'known';
    const name = JSON.stringify([tenant, reason]);
    const known = this.kinds.get(name);
    if (known !== undefined) return known;
    const isFull = this.count[who] === MAX_KINDS;
    const rest = this.kinds.get(who);
    if (isFull && rest !== undefined) return rest;
    const kind = isFull
      ? { tenant: null, reason: 'others', written: 0, more: 0 }
      : { tenant, reason, written: 0, more: 0 };
    this.kinds.set(isFull ? who : name, kind);
    if (!isFull) this.count[who] += 1;
    return kind;
  }

  private endPeriod(): void {
    const kinds = [...this.kinds.values()];
    this.kinds.clear();
    Object.assign(this.count, { known: 0, unknown: 0 });
    this.isCounting = false;
    for (const kind of kinds) if (kind.more > 0) this.writeCount(kind);
  }
}
