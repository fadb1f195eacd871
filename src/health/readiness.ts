import { setTimeout as delay } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { MIGRATION_NAMES, MIGRATIONS_TABLE } from '../database/data-source.js';

/** Orchestrators give a probe little time; two seconds are promised, with room for the way there and back. */
const PATIENCE_MS = 1500;

/** Whether a write would succeed now. */
@Injectable()
export class Readiness {
  private stopping = false;

  constructor(private readonly dataSource: DataSource) {}

  /** From now on not ready, so that no new requests are routed here. */
  stop(): void {
    this.stopping = true;
  }

  /** Why the service is not ready, in words for an operator; null when it is. */
  async fault(): Promise<string | null> {
    if (this.stopping) return 'The service is stopping';
    const expired = new AbortController();
    try {
      return await Promise.race([
        this.databaseFault(),
        delay(PATIENCE_MS, 'The database did not answer in time', { signal: expired.signal }),
      ]);
    } catch {
      return 'The database cannot be reached, or lacks the schema; see `npm run migrate`';
    } finally {
      expired.abort();
    }
  }

  private async databaseFault(): Promise<string | null> {
    const { schema = 'public' } = this.dataSource.options as { schema?: string };
    const rows = await this.dataSource.query<[{ read_only: boolean; missing: string[] }]>(
      `select pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only,
              array(select unnest($1::text[]) except select name from "${schema}".${MIGRATIONS_TABLE}) as missing`,
      [MIGRATION_NAMES],
    );
    if (rows[0].read_only) return 'The database is read-only';
    const { missing } = rows[0];
    return missing.length > 0
      ? `Migrations are missing: ${missing.join(', ')}; see \`npm run migrate\``
      : null;
  }
}
