import { setTimeout as delay } from 'node:timers/promises';
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { sqlStateOf } from '../faults.js';
import { schemaOf } from './1764000000000-adopt-checkpoint-tables.js';

const TABLES = ['checkpoint_blobs', 'checkpoint_writes'];
const TUPLE_TARGET = 'toast_tuple_target';
const TUPLE_TARGET_BYTES = 4080;

/** While an `alter table` waits for its lock others wait behind it, so it waits briefly and tries again. */
const LOCK_TIMEOUT_MS = 500;
const PAUSE_MS = 1500;
const ATTEMPTS = 30;
const LOCK_NOT_AVAILABLE = '55P03';

/**
 * How new blobs are stored; no row is rewritten, and what somebody else has set stays. They are compressed with lz4 where
 * the server has it. Where it has not, a blob whose row fits into half a page stays there as it is: that spares it pglz,
 * Postgres's default, and the way into a table of its own. Measured on Postgres 15, bytes per row with its indexes, puts
 * per second and Postgres's CPU per put as ratios to the default (medians of 7 to 11 alternating rounds):
 *
 *                     2 KB of prose       2 KB of random words   1 MB of prose
 *     default         1,632   1     1     3,169   1     1        442,000   1     1
 *     lz4             1,684   1.2   0.8   2,553   1.1   0.8      455,000   2.6   0.27
 *     4080            2,946   1.2   0.75  2,949   1.2   0.7      443,000   1.0   1.0
 *     lz4 and 4080    2,957   1.2   0.7   2,967   1.2   0.7      453,000   2.6   0.27
 *
 * Not both: lz4 would leave 2 KB alone, for up to 1.8 times the bytes. Not 8160: the same up to 4 KB, and above, where a
 * row takes a page, 8,417 bytes instead of 2,910 for 4.6 KB of prose.
 */
export class SetBlobStorage1764000000003 implements MigrationInterface {
  /** So that no table stays locked while another one is waited for; each step is repeatable. */
  readonly transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    const lz4 = await hasLz4(runner);
    for (const table of TABLES) {
      const { compression, options } = await storageOf(runner, table);
      const isTold = options.some((option) => option.startsWith(`${TUPLE_TARGET}=`));
      if (lz4 && compression === '') {
        await alterWhenFree(runner, table, 'alter column blob set compression lz4');
      }
      if (!lz4 && table === 'checkpoint_blobs' && !isTold) {
        await alterWhenFree(runner, table, `set (${TUPLE_TARGET} = ${TUPLE_TARGET_BYTES})`);
      }
    }
  }

  /** TypeORM reverts in a transaction, always: one try. */
  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    for (const table of TABLES) {
      const { compression, options } = await storageOf(runner, table);
      const alter = `alter table ${schemaOf(runner)}.${table}`;
      if (compression === 'l') await runner.query(`${alter} alter column blob set compression default`);
      if (options.includes(`${TUPLE_TARGET}=${TUPLE_TARGET_BYTES}`)) {
        await runner.query(`${alter} reset (${TUPLE_TARGET})`);
      }
    }
  }
}

export async function hasLz4(runner: QueryRunner): Promise<boolean> {
  const rows = (await runner.query(
    `select 1 from pg_catalog.pg_settings where name = 'default_toast_compression' and 'lz4' = any(enumvals)`,
  )) as unknown[];
  return rows.length > 0;
}

/** What is set on the table: '' is the server's own compression and l is lz4; an option is `name=value`. */
async function storageOf(
  runner: QueryRunner,
  table: string,
): Promise<{ compression: string; options: string[] }> {
  const rows = (await runner.query(
    `select a.attcompression as compression, coalesce(c.reloptions, '{}') as options
       from pg_catalog.pg_class c
       join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'blob'
      where c.oid = $1::regclass::oid`,
    [`${schemaOf(runner)}.${table}`],
  )) as [{ compression: string; options: string[] }];
  return rows[0];
}

export async function alterWhenFree(runner: QueryRunner, table: string, action: string): Promise<void> {
  await whenFree(runner, table, `alter table ${schemaOf(runner)}.${table} ${action}`);
}

/** @throws Error when there was no moment without a transaction that is in the way */
export async function whenFree(runner: QueryRunner, table: string, statement: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      // Sent together, these are one transaction.
      await runner.query(`set local lock_timeout = ${LOCK_TIMEOUT_MS}; ${statement}`);
      return;
    } catch (error) {
      if (sqlStateOf(error) !== LOCK_NOT_AVAILABLE) throw error;
      if (attempt === ATTEMPTS) {
        throw new Error(
          `The table ${schemaOf(runner)}.${table} was never free for a minute; migrate again when long transactions have ended`,
          { cause: error },
        );
      }
      await delay(PAUSE_MS);
    }
  }
}
