import { setTimeout as delay } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Settings } from '../config/env.js';
import { isPooled, MIGRATION_NAMES, MIGRATIONS_TABLE } from '../database/data-source.js';
import { budgetOf, type Connections, CONNECTIONS } from '../database/server.js';

/** Orchestrators give a probe little time; two seconds are promised, with room for the way there and back. */
const PATIENCE_MS = 1500;

export interface Health {
  fault: string | null;
  warning: string | null;
}

/** Whether a write would succeed now. */
@Injectable()
export class Readiness {
  private stopping = false;

  private readonly logger = new Logger('readiness');
  private warned: string | null = null;

  constructor(
    private readonly dataSource: DataSource,
    private readonly settings: Settings,
  ) {}

  /** From now on not ready, so that no new requests are routed here. */
  stop(): void {
    this.stopping = true;
  }

  /** Why the service is not ready, and what will become a fault, in words for an operator; null: nothing. */
  async check(): Promise<Health> {
    if (this.stopping) return faulty('The service is stopping');
    const expired = new AbortController();
    try {
      return await Promise.race([
        this.askDatabase(),
        delay(PATIENCE_MS, faulty('The database did not answer in time'), { signal: expired.signal }),
      ]);
    } catch {
      return faulty('The database cannot be reached, or lacks the schema; see `npm run migrate`');
    } finally {
      expired.abort();
    }
  }

  private async askDatabase(): Promise<Health> {
    const { schema = 'public' } = this.dataSource.options as { schema?: string };
    // A migration that this release does not know is none of its business: the next release serves beside it.
    const [row] = await this.dataSource.query<[Connections & { read_only: boolean; missing: string[] }]>(
      `select pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only,
              array(select unnest($1::text[]) except select name from "${schema}".${MIGRATIONS_TABLE}) as missing,
              ${CONNECTIONS}`,
      [MIGRATION_NAMES],
    );
    if (row.read_only) return faulty('The database is read-only');
    if (row.missing.length > 0) {
      return faulty(`Migrations are missing: ${row.missing.join(', ')}; see \`npm run migrate\``);
    }
    return { fault: null, warning: this.warningOf(row) };
  }

  private warningOf(connections: Connections): string | null {
    const { text, isNear } = budgetOf(this.settings, connections, isPooled(this.dataSource.options));
    // Once, not with every probe.
    if (isNear && this.warned === null) this.logger.warn(`near max_connections: ${text}`);
    this.warned = isNear ? `Near max_connections: ${text}` : null;
    return this.warned;
  }
}

function faulty(fault: string): Health {
  return { fault, warning: null };
}
