import { randomUUID } from 'node:crypto';
import { Injectable, Logger as NestLogger } from '@nestjs/common';
import type { Logger } from 'pino';
import { Settings } from '../config/env.js';
import { Database } from '../database/database.js';
import type { Deed } from '../request/caller.js';
import type { Principal } from '../request/principal.js';
import { bounded } from './bounded.js';
import { RefusalBudget } from './refusal-budget.js';

/** Characters: a token's may quote the token. */
const MAX_REASON = 500;

/** One line of the audit log. */
export interface AuditEvent {
  operation: string;
  /** `unknown`: the database did not say; it may be done, or a part of it. */
  outcome: 'done' | 'failed' | 'unknown' | 'refused';
  requestId: string | null;
  tenant: string | null;
  /** Absent: nobody is known. */
  by?: Principal['by'];
  /** What it was about, such as thread ids; never what is stored. */
  detail: object;
}

/** An access that was refused, and why. */
export type Refusal = Omit<AuditEvent, 'outcome'> & {
  detail: { reason: string; from?: string; key?: string };
};

/** What a request does, and whether its transactions have written that. */
export interface AuditedDeed extends Deed {
  readonly isRecorded: boolean;
}

/**
 * Who deleted, copied, or was refused what, and who changed keys. With `AUDIT_LOG=table` the row of what is done is written in
 * the transaction that does it, so that there is neither without the other; that of a refusal is written later.
 */
@Injectable()
export class Audit {
  private readonly faults = new NestLogger('audit');
  private log: Logger | null = null;
  private readonly insert: string;
  private readonly refusals = new RefusalBudget<Refusal>(
    (event) => {
      this.write({ ...event, outcome: 'refused' });
    },
    ({ tenant, reason, more }) => {
      this.write({ operation: '*', outcome: 'refused', requestId: null, tenant, detail: { reason, more } });
    },
  );

  constructor(
    private readonly settings: Settings,
    private readonly database: Database,
  ) {
    // A row whose `deed` is there already is what a transaction wrote whose end nobody was told of.
    this.insert = `
      insert into "${settings.databaseSchema}".audit_log
        (deed, request_id, operation, outcome, tenant, key_id, key_name, subject, detail)
      values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
          on conflict do nothing`;
  }

  /** Events go to that log, whatever its level, unless it is silent. */
  writeTo(logger: Logger): void {
    this.log = logger.level === 'silent' ? null : logger.child({}, { level: 'info' });
  }

  /** What the request is about to do. Its transactions write it with `AUDIT_LOG=table`; `done` does the rest. */
  begin(event: Omit<AuditEvent, 'outcome'>): AuditedDeed {
    const id = randomUUID();
    const isTable = this.settings.auditLog === 'table';
    let isRecorded = false;
    return {
      get isRecorded() {
        return isRecorded;
      },
      record: async (query, part, detail = {}) => {
        isRecorded = true;
        const done = {
          ...event,
          outcome: 'done' as const,
          detail: { ...event.detail, ...bounded(detail, Infinity) },
        };
        if (isTable) await query(this.insert, valuesOf(`${id}/${part}`, done));
      },
    };
  }

  /** The deed is done. @throws as `record` */
  async done(deed: AuditedDeed, event: Omit<AuditEvent, 'outcome'>): Promise<void> {
    if (deed.isRecorded && this.settings.auditLog === 'table') return;
    await this.record({ ...event, outcome: 'done' });
  }

  /** @throws as `Database.query`; nothing, when a log is enough */
  async record(event: AuditEvent): Promise<void> {
    const { auditLog } = this.settings;
    if (auditLog === 'log') this.log?.info({ audit: event }, 'audit');
    if (auditLog !== 'table') return;
    await this.database.query('audit', this.insert, valuesOf(randomUUID(), event));
  }

  /** Does not wait; of a flood it writes the first of each kind, and how many more there were. */
  refused(event: Refusal): void {
    const { reason } = event.detail;
    this.refusals.take({
      ...event,
      detail: { ...bounded(event.detail), reason: reason.slice(0, MAX_REASON) },
    });
  }

  /** Nobody waits for it. */
  write(event: AuditEvent): void {
    this.record(event).catch((error: unknown) => {
      this.faults.error(`not written: ${String(error)}`);
    });
  }
}

function valuesOf(
  deed: string,
  { operation, outcome, requestId, tenant, by, detail }: AuditEvent,
): unknown[] {
  const [keyId, keyName, subject] =
    by === undefined ? [] : 'key' in by ? [by.key, by.name] : [null, null, by.subject];
  return [deed, requestId, operation, outcome, tenant, keyId, keyName, subject, JSON.stringify(detail)];
}
