import { setTimeout as delay } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import type { Client } from 'pg';
import { DataSource } from 'typeorm';
import { Settings } from '../config/env.js';
import { isPooled, MIGRATION_NAMES, MIGRATIONS_TABLE } from '../database/data-source.js';
import { Database } from '../database/database.js';
import { faultOf } from '../database/faults.js';
import { faultOfRights, type Rights, rightsColumns } from '../database/rights.js';
import { budgetOf, connect, type Connections, CONNECTIONS } from '../database/server.js';

/** Orchestrators give a probe little time; two seconds are promised, with room for the way there and back. */
const PATIENCE_MS = 1500;
/** An answer may be this old, counted from when its question began: so often at most is the database asked. */
const FRESH_MS = 1000;
/**
 * A question may take longer than whoever asked it waits: the next one is told the answer. Then Postgres itself ends it, so that
 * questions do not pile up there, and soon after a server that says nothing is given up.
 */
const STATEMENT_MS = 4000;
const SILENCE_MS = 5000;
const GOODBYE_MS = 1000;
/** After a statement failed for want of disk space, writes are taken to fail for so long. */
const DISK_FULL_MS = 10_000;

/** Of the role: it says nothing of the disk. */
const TEMP_FILE_LIMIT = '53400';
const TOO_MANY_CONNECTIONS = '53300';
/** By SQLSTATE: what a probe that failed says. */
const FAULTS = new Map([
  ['53100', 'The disk of the database is full'],
  [TOO_MANY_CONNECTIONS, 'The database has no connection left'],
  ['57014', 'The database did not answer in time'],
]);
const UNKNOWN = 'The database cannot be reached, or lacks the schema; see `checkpoint-backend migrate`';

export interface Health {
  fault: string | null;
  warning: string | null;
}

interface State extends Connections, Rights {
  read_only: boolean;
  is_migrated: boolean;
}

/**
 * Whether a write would succeed now. However many ask, the database is asked once at a time and once a second, on a connection
 * of its own: probes take none from agents, and an instance whose agents keep all of them busy is not taken for a dead one.
 */
@Injectable()
export class Readiness {
  private stopping = false;

  private readonly logger = new Logger('readiness');
  private warned: string | null = null;
  private asking: Promise<Health> | null = null;
  private last: { health: Health; began: number } | null = null;

  constructor(
    private readonly dataSource: DataSource,
    private readonly settings: Settings,
    private readonly database: Database,
  ) {}

  /** From now on not ready, so that no new requests are routed here. */
  stop(): void {
    this.stopping = true;
  }

  /** Why the service is not ready, and what will become a fault, in words for an operator; null: nothing. */
  async check(): Promise<Health> {
    if (this.stopping) return faulty('The service is stopping');
    if (this.last !== null && performance.now() < this.last.began + FRESH_MS) return this.last.health;
    this.asking ??= this.ask().finally(() => (this.asking = null));
    const expired = new AbortController();
    try {
      return await Promise.race([
        this.asking,
        delay(PATIENCE_MS, faulty('The database did not answer in time'), { signal: expired.signal }),
      ]);
    } finally {
      expired.abort();
    }
  }

  private async ask(): Promise<Health> {
    const began = performance.now();
    const health = await this.askDatabase().catch((error: unknown) => {
      return faulty(FAULTS.get(faultOf(error).code ?? '') ?? UNKNOWN);
    });
    this.last = { health, began };
    return health;
  }

  private async askDatabase(): Promise<Health> {
    const { url = '' } = this.dataSource.options as { url?: string };
    const client = await connect(this.settings, url, {
      connectionTimeoutMillis: SILENCE_MS,
      query_timeout: SILENCE_MS,
    }).catch((error: unknown) => {
      if (faultOf(error).code !== TOO_MANY_CONNECTIONS) throw error;
      return null;
    });
    if (client === null) return this.askByPool();
    try {
      return await this.examine(client);
    } finally {
      // Its end rolls back. A server that is gone does not say goodbye.
      await Promise.race([client.end(), delay(GOODBYE_MS, null, { ref: false })]);
    }
  }

  /** Others have all connections of the server but those of the pool, which go on. */
  private async askByPool(): Promise<Health> {
    const runner = this.dataSource.createQueryRunner();
    try {
      const client = (await runner.connect()) as Client;
      const health = await this.examine(client).finally(() => client.query('rollback'));
      return { ...health, warning: health.warning ?? 'The server has no connection left for others' };
    } finally {
      await runner.release();
    }
  }

  private async examine(client: Client): Promise<Health> {
    const { databaseSchema: schema } = this.settings;
    const state = await lastRowOf<State>(
      client,
      `begin;
       set local statement_timeout = ${STATEMENT_MS};
       set local work_mem = '64kB';
       select pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('transaction_read_only')::bool as read_only,
              exists (select from pg_catalog.pg_tables
                       where schemaname operator(pg_catalog.=) '${schema}'::name
                         and tablename operator(pg_catalog.=) '${MIGRATIONS_TABLE}'::name) as is_migrated,
              ${rightsColumns(this.settings)},
              ${CONNECTIONS}`,
    );
    if (state.read_only) return faulty('The database is read-only');
    const unfit = faultOfRights(state);
    if (unfit !== null) return faulty(unfit);
    if (!state.is_migrated) return faulty(UNKNOWN);
    // A migration that this release does not know is none of its business: the next release serves beside it.
    const { missing } = await lastRowOf<{ missing: string[] }>(
      client,
      `select array(select m.name from (values ${MIGRATION_NAMES.map((name) => `('${name}')`).join(', ')}) as m (name)
                    except
                    select d.name::text from "${schema}".${MIGRATIONS_TABLE} as d) as missing`,
    );
    if (missing.length > 0) {
      return faulty(`Migrations are missing: ${missing.join(', ')}; see \`checkpoint-backend migrate\``);
    }
    // Sorted on disk, since work_mem is small: 2 MB of files that are gone afterwards. Rows would have to be vacuumed.
    await client
      .query(
        `select from pg_catalog.generate_series(1, 2000) as n order by pg_catalog.repeat('x', 1000), n offset 1999`,
      )
      .catch((error: unknown) => {
        if (faultOf(error).code !== TEMP_FILE_LIMIT) throw error;
      });
    if (this.database.hasLackedDiskFor(DISK_FULL_MS)) return faulty('The disk of the database is full');
    return { fault: null, warning: this.warningOf(state) };
  }

  private warningOf(connections: Connections): string | null {
    const { text, isNear } = budgetOf(this.settings, connections, isPooled(this.dataSource.options));
    // Once, not with every probe.
    if (isNear && this.warned === null) this.logger.warn(`near max_connections: ${text}`);
    this.warned = isNear ? `Near max_connections: ${text}` : null;
    return this.warned;
  }
}

/** Of several statements in one text, pg gives a result each. */
async function lastRowOf<Row>(client: Client, sql: string): Promise<Row> {
  const answer = (await client.query(sql)) as unknown as { rows: Row[] } | { rows: Row[] }[];
  const last = Array.isArray(answer) ? answer.at(-1) : answer;
  return last?.rows[0] as Row;
}

function faulty(fault: string): Health {
  return { fault, warning: null };
}
