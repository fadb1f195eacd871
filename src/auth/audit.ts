import { Injectable, Logger as NestLogger } from '@nestjs/common';
import type { Logger } from 'pino';
import { Settings } from '../config/env.js';
import { Database } from '../database/database.js';
import type { Principal } from '../http/principal.js';

/** Refused accesses are written one by one up to so many in so long, then counted. */
const REFUSALS = 10;
const REFUSALS_MS = 10_000;

/** One line of the audit log. */
export interface AuditEvent {
  operation: string;
  outcome: 'done' | 'failed' | 'refused';
  requestId: string | null;
  tenant: string | null;
  /** Absent: nobody is known. */
  by?: Principal['by'];
  /** What it was about, such as thread ids; never what is stored. */
  detail: object;
}

/**
 * Who deleted, copied, or was refused what, and who changed keys. With `AUDIT_LOG=table` an event is there before the answer
 * that it is about, except a refusal.
 */
@Injectable()
export class Audit {
  private readonly faults = new NestLogger('audit');
  private log: Logger | null = null;
  private readonly table: string;
  /** Refusals that may still be written, and those that were not. */
  private left = REFUSALS;
  private more = 0;
  private counting = false;

  constructor(
    private readonly settings: Settings,
    private readonly database: Database,
  ) {
    this.table = `"${settings.databaseSchema}".audit_log`;
  }

  /** Events go to that log, whatever its level, unless it is silent. */
  writeTo(logger: Logger): void {
    this.log = logger.level === 'silent' ? null : logger.child({}, { level: 'info' });
  }

  /** @throws as `Database.query`; nothing, when a log is enough */
  async record(event: AuditEvent): Promise<void> {
    const { auditLog } = this.settings;
    if (auditLog === 'log') this.log?.info({ audit: event }, 'audit');
    if (auditLog !== 'table') return;
    const { operation, outcome, requestId, tenant, by, detail } = event;
    const [keyId, keyName, subject] =
      by === undefined ? [] : 'key' in by ? [by.key, by.name] : [null, null, by.subject];
    await this.database.query(
      'audit',
      `insert into ${this.table} (request_id, operation, outcome, tenant, key_id, key_name, subject, detail)
       values ($1, $2, $3, $4, $5, $6, $7, $8)`,
      [requestId, operation, outcome, tenant, keyId, keyName, subject, JSON.stringify(detail)],
    );
  }

  /** Does not wait; of a flood it writes the first, and how many more there were. */
  refused(event: Omit<AuditEvent, 'outcome'>): void {
    if (!this.counting) {
      this.counting = true;
      setTimeout(() => {
        this.endCount();
      }, REFUSALS_MS).unref();
    }
    if (this.left === 0) {
      this.more += 1;
      return;
    }
    this.left -= 1;
    this.write({ ...event, outcome: 'refused' });
  }

  private endCount(): void {
    const { more } = this;
    Object.assign(this, { left: REFUSALS, more: 0, counting: false });
    if (more === 0) return;
    this.write({ operation: '*', outcome: 'refused', requestId: null, tenant: null, detail: { more } });
  }

  /** Nobody waits for it. */
  write(event: AuditEvent): void {
    this.record(event).catch((error: unknown) => {
      this.faults.error(`not written: ${String(error)}`);
    });
  }
}
