import type { DataSourceOptions } from 'typeorm';
import type { Settings } from '../config/env.js';
import { AdoptCheckpointTables1764000000000 } from './migrations/1764000000000-adopt-checkpoint-tables.js';
import { AddIndexes1764000000001 } from './migrations/1764000000001-add-indexes.js';
import { AddThreadOrderIndex1764000000002 } from './migrations/1764000000002-add-thread-order-index.js';
import { SetBlobStorage1764000000003 } from './migrations/1764000000003-set-blob-storage.js';
import { AddApiKeys1764000000004 } from './migrations/1764000000004-add-api-keys.js';
import { AddAuditLog1764000000005 } from './migrations/1764000000005-add-audit-log.js';
import { AddKeyRotation1764000000006 } from './migrations/1764000000006-add-key-rotation.js';
import { QualifyKeyTrigger1764000000007 } from './migrations/1764000000007-qualify-key-trigger.js';
import { AddAuditDeed1764000000008 } from './migrations/1764000000008-add-audit-deed.js';
import { AddCheckpointDeltas1764000000009 } from './migrations/1764000000009-add-checkpoint-deltas.js';
import { BinaryClient } from './binary-client.js';
import { PreparedClient } from './prepared-client.js';
import { APPLICATION_NAME, type Server } from './server.js';
import { optionsOf, SESSION, withOptions } from './session.js';

/** TypeORM's own table, under a name that no other program's can meet. */
export const MIGRATIONS_TABLE = 'checkpoint_backend_migrations';

/** A server that needs longer is taken for unreachable, and asked again. */
const CONNECT_TIMEOUT_MS = 5000;

/** How often Postgres looks, while it is at a statement, whether the instance that sent it has died. */
const LOSS_CHECK_MS = 2000;

/** Append only: released migrations are never edited. */
const MIGRATIONS = [
  AdoptCheckpointTables1764000000000,
  AddIndexes1764000000001,
  AddThreadOrderIndex1764000000002,
  SetBlobStorage1764000000003,
  AddApiKeys1764000000004,
  AddAuditLog1764000000005,
  AddKeyRotation1764000000006,
  QualifyKeyTrigger1764000000007,
  AddAuditDeed1764000000008,
  AddCheckpointDeltas1764000000009,
];

/** The names under which `MIGRATIONS_TABLE` records them. */
export const MIGRATION_NAMES = MIGRATIONS.map((migration) => migration.name);

/** The options of a connection pool, without entities; without `server` Postgres is taken to be one. */
export function dataSourceOptions(
  settings: Settings,
  databaseUrl: string,
  server?: Server,
): DataSourceOptions {
  const { url, options } = sessionOf(settings, databaseUrl, server);
  return {
    type: 'postgres',
    url,
    ssl: settings.databaseSsl,
    schema: settings.databaseSchema,
    migrations: MIGRATIONS,
    migrationsTableName: MIGRATIONS_TABLE,
    migrationsTransactionMode: 'each',
    synchronize: false,
    applicationName: APPLICATION_NAME,
    poolSize: settings.databasePoolMax,
    connectTimeoutMS: Math.min(settings.queueWaitMs, CONNECT_TIMEOUT_MS),
    // The pool replaces a connection that breaks while idle; without a handler the process would end.
    poolErrorHandler: () => undefined,
    extra: {
      ...timeoutOf(settings, server),
      options,
      before: server?.before ?? '',
      keepAlive: true,
      ...(settings.fastPath
        ? { Client: BinaryClient, maxRowBytes: settings.tupleLimitBytes }
        : { Client: PreparedClient }),
    },
  };
}

/** Whether `inspectServer` found a pooler when these options were made. */
export function isPooled({ extra }: DataSourceOptions): boolean {
  return !('statement_timeout' in (extra as object));
}

/** SQL that has to go in front of each statement; '' when there is none. */
export function beforeOf({ extra }: DataSourceOptions): string {
  return (extra as { before: string }).before;
}

/** How long a statement may take, in milliseconds. */
export function statementTimeoutOf({ extra }: DataSourceOptions): number {
  const { statement_timeout: ours, query_timeout: given, role_timeout: roles } = extra as Timeout;
  return ours ?? given ?? roles ?? Infinity;
}

/** Where a pooler drops what a session is told, the URL stays as it is. */
function sessionOf(
  { statementTimeoutMs }: Settings,
  databaseUrl: string,
  server?: Server,
): { url: string; options?: string } {
  if (server?.isPooled === true) return { url: databaseUrl };
  const { lock_timeout, ...always } = SESSION;
  const { url, options } = withOptions(
    databaseUrl,
    optionsOf({
      ...always,
      // A migration has no server, and waits.
      ...(server !== undefined && { lock_timeout }),
      // A transaction whose instance has stopped in the middle of it keeps its locks for so long.
      idle_in_transaction_session_timeout: statementTimeoutMs,
      ...(server?.noticesLoss === true && { client_connection_check_interval: LOSS_CHECK_MS }),
    }),
  );
  return { url, options };
}

/** Two of them pg knows; the third is a note for `statementTimeoutOf`. */
interface Timeout {
  statement_timeout?: number;
  query_timeout?: number;
  role_timeout?: number;
}

/** Who ends a statement: Postgres, told by us or by `alter role`; only where it does not, this service gives up. */
function timeoutOf({ statementTimeoutMs }: Settings, server?: Server): Timeout {
  if (!server?.isPooled) return { statement_timeout: statementTimeoutMs };
  const isEnded = server.statementTimeoutMs > 0 && server.statementTimeoutMs <= statementTimeoutMs;
  return isEnded ? { role_timeout: server.statementTimeoutMs } : { query_timeout: statementTimeoutMs };
}
