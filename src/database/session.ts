/**
 * What statements of this service depend on, whatever the role, the database or the server says. Each connection of the pool
 * is told so when it begins; a pooler drops that, and then each statement is.
 */
export const SESSION: Readonly<Record<string, string>> = {
  // Compiling a plan takes it seconds, for statements that take milliseconds: Postgres guesses 100 rows for each array.
  jit: 'off',
  max_parallel_workers_per_gather: '0',
  // Tables are qualified. No function or operator of another schema may take the place of Postgres's own.
  search_path: 'pg_catalog, pg_temp',
  // A policy that would hide rows makes a statement fail instead.
  row_security: 'off',
  default_transaction_isolation: 'read committed',
  standard_conforming_strings: 'on',
  plan_cache_mode: 'auto',
  // A table that others lock is waited for before a statement can say how long, which would keep all connections.
  lock_timeout: '250',
  DateStyle: 'ISO, MDY',
  TimeZone: 'UTC',
};

/** The startup parameter `options`. */
export function optionsOf(settings: Readonly<Record<string, string | number>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `-c ${name}=${String(value).replace(/[\\ ]/g, '\\$&')}`)
    .join(' ');
}

/** The URL without options of its own, and these with ours behind them, which win; pg would take the URL's alone. */
export function withOptions(databaseUrl: string, ours: string): { url: string; options: string } {
  const url = new URL(databaseUrl);
  const given = url.searchParams.get('options');
  if (given === null) return { url: databaseUrl, options: ours };
  url.searchParams.delete('options');
  return { url: url.href, options: `${given} ${ours}` };
}

/** A statement's own transaction has begun when it could be told; a serialisation failure is sent again. */
const ONLY_OF_SESSIONS = ['default_transaction_isolation'];

/** SQL that sets, until the transaction ends, what a session has otherwise; '' when it has nothing otherwise. */
export function beforeStatements(session: Readonly<Record<string, string>>): string {
  const settings = Object.entries(SESSION).filter(
    ([name, value]) => session[name] !== value && !ONLY_OF_SESSIONS.includes(name),
  );
  const calls = settings.map(([name, value]) => `pg_catalog.set_config('${name}', '${value}', true)`);
  return calls.length === 0 ? '' : `select ${calls.join(', ')}`;
}
