import { Client, type ClientConfig } from 'pg';
import type { Settings } from '../config/env.js';
import { faultOf, isAnswer } from './faults.js';
import { beforeStatements, optionsOf, SESSION, withOptions } from './session.js';

export const APPLICATION_NAME = 'checkpoint-backend';

/** SQL: the columns of `Connections`. Other roles' rows show no more than their database, hence the `coalesce`. */
export const CONNECTIONS = `
  pg_catalog.current_setting('max_connections')::int as max,
  pg_catalog.current_setting('superuser_reserved_connections')::int
    operator(pg_catalog.+) coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) as reserved,
  (select pg_catalog.count(*)::int from pg_catalog.pg_stat_activity
    where coalesce(backend_type, 'client backend') operator(pg_catalog.=) 'client backend' and datid is not null
      and application_name operator(pg_catalog.=) '${APPLICATION_NAME}') as own,
  (select pg_catalog.count(*)::int from pg_catalog.pg_stat_activity
    where coalesce(backend_type, 'client backend') operator(pg_catalog.=) 'client backend' and datid is not null
      and application_name operator(pg_catalog.<>) '${APPLICATION_NAME}') as others`;

/** The connections of the server: how many it allows, how many of them for superusers, and who has how many now. */
export interface Connections {
  max: number;
  reserved: number;
  /** Of every instance. */
  own: number;
  others: number;
}

/** What is between this service and the tables. */
export interface Server {
  /** A pooler, which does not pass our `statement_timeout` on: PgBouncer refuses it, or was told to ignore it. */
  isPooled: boolean;
  /** SQL that a statement needs in front of it, since the pooler keeps our settings from the session; '' when there is none. */
  before: string;
  /** Whether it can notice, while it is at a statement, that this service has died. */
  noticesLoss: boolean;
  /** When Postgres itself ends a statement of ours, in milliseconds; 0: never. */
  statementTimeoutMs: number;
  connections: Connections;
}

/** A connection by itself, which outlives nothing. The statement that needs it reports its loss. */
export async function connect(
  settings: Settings,
  databaseUrl: string,
  options: ClientConfig = {},
): Promise<Client> {
  const client = new Client({
    connectionString: databaseUrl,
    ...(settings.databaseSsl && { ssl: settings.databaseSsl }),
    application_name: APPLICATION_NAME,
    ...options,
  });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

/** Asks the server, once, before the pool is made. @throws what connecting throws */
export async function inspectServer(settings: Settings, databaseUrl: string): Promise<Server> {
  const { statementTimeoutMs, queueWaitMs } = settings;
  const patience = { connectionTimeoutMillis: queueWaitMs };
  const { url, options } = withOptions(databaseUrl, optionsOf(SESSION));
  const told = { ...patience, options, statement_timeout: statementTimeoutMs };
  const first = await connect(settings, url, told).catch((error: unknown) => {
    if (!isRefusedParameter(error)) throw error;
    return null;
  });
  const client = first ?? (await connect(settings, databaseUrl, patience));
  try {
    const { rows } = await client.query(
      `select (select setting::int from pg_catalog.pg_settings where name operator(pg_catalog.=) 'statement_timeout') as timeout,
              (select pg_catalog.json_object_agg(name, setting)
                 from pg_catalog.pg_settings
                where name operator(pg_catalog.=) any($1)) as session,
              ${CONNECTIONS}`,
      [Object.keys(SESSION)],
    );
    const [{ timeout, session, ...connections }] = rows as [
      Connections & { timeout: number; session: Record<string, string> },
    ];
    const before = beforeStatements(session);
    const isPooled = first === null || timeout !== statementTimeoutMs || before !== '';
    const noticesLoss = !isPooled && (await canNoticeLoss(client));
    return { isPooled, before, noticesLoss, statementTimeoutMs: timeout, connections };
  } finally {
    await client.end();
  }
}

/** Where Postgres cannot, on some systems, it refuses the setting. */
async function canNoticeLoss(client: Client): Promise<boolean> {
  try {
    await client.query(`select pg_catalog.set_config('client_connection_check_interval', '1s', true)`);
    return true;
  } catch (error) {
    if (!isAnswer(faultOf(error))) throw error;
    return false;
  }
}

/** Each pooler has words and codes of its own. What a second attempt without the parameters would meet too is thrown. */
function isRefusedParameter(error: unknown): boolean {
  const fault = faultOf(error);
  return isAnswer(fault) && !/^(28|3D|53|57)/.test(fault.code ?? '');
}

/** From this share of the server's connections on, there is a warning. */
const NEAR = 0.9;

/**
 * What the pools may open, beside what the server allows; `isNear` when that is little more. Behind a pooler it is the
 * pooler that decides how many there are, so that only those count which are open.
 */
export function budgetOf(
  { databasePoolMax, instances }: Settings,
  { max, reserved, own, others }: Connections,
  isPooled: boolean,
): { text: string; isNear: boolean } {
  const planned = databasePoolMax * instances;
  const needed = (isPooled ? own : Math.max(planned, own)) + others;
  const pools = isPooled
    ? `a pool of ${databasePoolMax} × ${instances} instances, behind a pooler`
    : `a pool of ${databasePoolMax} × ${instances} instances = ${planned} connections`;
  return {
    text: `${pools}; ${own} are open, and ${others} of others; the server allows ${max - reserved} (max_connections ${max}, ${reserved} reserved)`,
    isNear: needed > NEAR * (max - reserved),
  };
}
