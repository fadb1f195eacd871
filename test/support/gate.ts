import type { TestDatabase } from './database.js';
import { TABLES } from './schema.js';

/** Holds stores up. A lock does not for long: what waits for one gives its connection back. */
export interface Gate {
  close: () => Promise<unknown>;
  open: () => Promise<unknown>;
}

/** A statement of the service that is held up. */
export const HELD_UP = `from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`;

/** A sequence tells whether it is closed: what a transaction sees of it changes meanwhile. */
export async function aGate({ sql }: TestDatabase): Promise<Gate> {
  await sql('create sequence gate');
  await sql(`create function wait_for_gate() returns trigger language plpgsql as
    $$ begin
         while (select last_value from public.gate) = 2 loop perform pg_catalog.pg_sleep(0.01); end loop;
         return null;
       end $$`);
  for (const table of TABLES) {
    await sql(
      `create trigger gate before insert on ${table} for each statement execute function wait_for_gate()`,
    );
  }
  return { close: () => sql(`select setval('gate', 2)`), open: () => sql(`select setval('gate', 1)`) };
}
