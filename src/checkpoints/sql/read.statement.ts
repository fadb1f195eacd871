import { type Parameter, TooManyBytesError } from '../../database/binary-client.js';
import type { Kind, Mode } from '../../database/request-queue.js';
import { LimitExceededError } from '../../errors/errors.js';
import type { CheckpointFilter, CheckpointPage, TuplePart } from '../domain/checkpoint.js';
import { textArray } from './postgres-array.js';
import { type Row, fill } from './read.rows.js';
import { LogGoneError } from './log-records.js';
import { StoredValues } from './stored-values.js';
import { type ReadForm, formOf, keyOf, textOf } from './read.sql.js';
import type { Tables } from './tables.js';

/** What a request reads. */
export interface Read {
  filter: CheckpointFilter;
  /** At most so many checkpoints, newest first. */
  limit: number;
  parts: TuplePart[];
  /** Whether to find out if there are more. */
  isPaged: boolean;
}

/** A read as its kind takes it: the values of its form, and the answer once there is one. */
export interface Asked {
  values: string[];
  limit: number;
  page: CheckpointPage;
}

/** Runs a statement, and gives its rows as arrays. */
type Send = (sql: string, parameters: Parameter[], mode: Mode, maxBytes: number) => Promise<Row[]>;

/** In bytes: what a page may take that has more than one checkpoint, and what a single one may. */
interface Limits {
  pageBytes: number;
  tupleBytes: number;
}

/** Of the forms of a list, those that were asked for last are kept. */
const MAX_LIST_FORMS = 64;
/** How often a read begins anew, each time because somebody deleted what it had found. */
const MAX_ATTEMPTS = 5;
/** Longer pages have a statement of their own. */
const MAX_MERGED_LIMIT = 100;
/** What an answer is expected to hold until one is known; of the largest one so much is expected from each next statement. */
const FIRST_BYTES = 64 * 1024;
const NEXT_SHARE = 7 / 8;

/**
 * Statements that answer any number of reads of one form: what differs between the reads are the elements of arrays. With 64
 * agents a merged get-tuple costs Postgres two thirds of one that has a statement of its own, and Node a third of the calls.
 */
export class ReadStatements {
  /** Of single checkpoints: two for each set of parts. */
  private readonly tuples = new Map<string, Kind<Asked>>();
  /** The one that was asked for last is the last. */
  private readonly lists = new Map<string, Kind<Asked>>();

  constructor(
    private readonly tables: Tables,
    private readonly limits: Limits,
    private readonly send: Send,
    private readonly values: StoredValues,
  ) {}

  /** The kind that all reads of this form share, and the read. */
  of(read: Read): { kind: Kind<Asked>; asked: Asked } {
    const { filter, limit, parts, isPaged } = read;
    const form = formOf(filter, limit, parts, { isPaged, isMerged: canMerge(read) });
    return {
      kind: this.kindOf(form),
      asked: { values: form.values, limit, page: { tuples: [], next: null } },
    };
  }

  private kindOf(form: ReadForm): Kind<Asked> {
    const kinds = form.isPaged ? this.lists : this.tuples;
    const key = keyOf(form);
    const kind = kinds.get(key) ?? this.newKind(form);
    kinds.delete(key);
    kinds.set(key, kind);
    const [oldest] = kinds.keys();
    if (form.isPaged && kinds.size > MAX_LIST_FORMS && oldest !== undefined) kinds.delete(oldest);
    return kind;
  }

  private newKind(form: ReadForm): Kind<Asked> {
    const sql = textOf(form, this.tables, this.limits.pageBytes);
    return form.isMerged ? this.mergedKind(form, sql) : this.singleKind(form, sql);
  }

  private mergedKind({ parts }: ReadForm, sql: string): Kind<Asked> {
    const { pageBytes } = this.limits;
    let expectedBytes = FIRST_BYTES;
    return {
      run: async (reads, mode) => {
        if (reads.length === 1) {
          expectedBytes = Math.max(
            await this.readOne(mode, parts, sql, reads as [Asked], true),
            expectedBytes * NEXT_SHARE,
          );
          return;
        }
        try {
          const { longest, isCut } = await this.answer(reads, parts, mode, pageBytes, () =>
            this.send(sql, columnsOf(reads), mode, pageBytes),
          );
          if (isCut) throw new TooManyBytesError();
          expectedBytes = Math.max(longest, expectedBytes * NEXT_SHARE);
        } catch (error) {
          // Then the queue has each read by itself; those that follow are not put together at first.
          if (error instanceof TooManyBytesError) expectedBytes = pageBytes;
          for (const { page } of reads) Object.assign(page, { tuples: [], next: null });
          throw error;
        }
      },
      merge: { slotsOf: () => [], rowsOf: ({ limit }) => limit, bytesOf: () => expectedBytes },
    };
  }

  private singleKind({ parts }: ReadForm, sql: string): Kind<Asked> {
    return {
      run: async (reads, mode) => {
        for (const asked of reads) await this.readOne(mode, parts, sql, [asked], false);
      },
    };
  }

  /** Reads until the values are there that the rows name: what was deleted meanwhile is read anew. */
  private async answer(
    reads: Asked[],
    parts: TuplePart[],
    mode: Mode,
    maxBytes: number,
    rowsOf: () => Promise<Row[]>,
  ): Promise<{ longest: number; isCut: boolean }> {
    for (let attempt = 1; ; attempt += 1) {
      const found = fill(parts, reads, await rowsOf());
      try {
        const bytes = await this.values.resolve(
          reads.flatMap(({ page }) => page.tuples),
          mode,
          maxBytes,
        );
        return { longest: found.longest + bytes, isCut: found.isCut };
      } catch (error) {
        if (!(error instanceof LogGoneError) || attempt === MAX_ATTEMPTS) throw error;
        for (const { page } of reads) Object.assign(page, { tuples: [], next: null });
      }
    }
  }

  /** Returns how long the answer is. @throws LimitExceededError */
  private async readOne(
    mode: Mode,
    parts: TuplePart[],
    sql: string,
    read: [Asked],
    isMerged: boolean,
  ): Promise<number> {
    const { tupleBytes } = this.limits;
    try {
      const values = isMerged ? columnsOf(read) : read[0].values;
      const { longest } = await this.answer(read, parts, mode, tupleBytes, () =>
        this.send(sql, values, mode, tupleBytes),
      );
      return longest;
    } catch (error) {
      if (error instanceof TooManyBytesError) {
        throw new LimitExceededError('What belongs to the checkpoint', 'TUPLE_LIMIT_BYTES', tupleBytes);
      }
      throw error;
    }
  }
}

/** The values of the reads as arrays, one for each parameter. */
function columnsOf(reads: Asked[]): Buffer[] {
  return (reads[0]?.values ?? []).map((_, at) => textArray(reads.map(({ values }) => values[at] ?? '')));
}

/** A filter may have to read for long, and not all threads' order is a thread's. */
function canMerge({ filter, limit }: Read): boolean {
  return typeof filter.threads === 'string' && filter.metadata === null && limit <= MAX_MERGED_LIMIT;
}
