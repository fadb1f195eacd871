import { execFile } from 'node:child_process';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type pg from 'pg';
import { writesOf } from './history.js';
import { HEADERS } from './key.js';
import { DATABASE, ROLE, type World } from './world.js';

export interface Fault {
  name: string;
  /** What is done, in a few words for the table. */
  what: string;
  /** Does it, and resolves when all is well again. `wait` is for how long, in milliseconds. */
  apply: (world: World, wait: number) => Promise<void>;
  /** The cause of a retry in the service's log without which the fault did not reach it. */
  evidence?: RegExp;
  /** Errors that clients may see; by default none. */
  allowed?: RegExp;
  /** Why it cannot be done here. */
  skip?: () => Promise<string | null>;
  /** Leaves a world in which it cannot be done again. */
  once?: true;
}

const shell = promisify(execFile);

async function alterSystem({ postgres }: World, setting: string): Promise<void> {
  await postgres.sql(`alter system ${setting}`);
  await postgres.sql('select pg_reload_conf()');
}

/** What locks all tables may be the one that Postgres ends when the service locks them in another order. */
async function untilNotDeadlocked(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if ((error as { code?: string }).code !== '40P01') throw error;
    }
  }
}

async function terminateService({ postgres }: World): Promise<void> {
  await postgres.sql('select pg_terminate_backend(pid) from pg_stat_activity where usename = $1', [ROLE]);
}

/** Requests that meet on two rows, sent over and over beside the agents until the end of `meanwhile`. */
async function contended(world: World, meanwhile: () => Promise<void>): Promise<void> {
  const history = { threadId: 'contended', origin: 'contended', steps: 1, fate: 'kept' as const };
  const body = JSON.stringify({
    thread_id: history.threadId,
    checkpoint_id: 'c',
    writes: writesOf(history, 1, 0, true),
    upsert: true,
  });
  let isOver = false;
  const faults: string[] = [];
  const senders = [0, 1, 2, 3].map(async () => {
    while (!isOver) {
      const answer = await fetch(`${world.route()}/checkpoints/put-writes`, {
        method: 'POST',
        headers: HEADERS,
        body,
      });
      if (answer.status !== 204) faults.push(`${answer.status} ${await answer.text()}`);
    }
  });
  try {
    await meanwhile();
  } finally {
    isOver = true;
    await Promise.all(senders);
  }
  if (faults.length > 0)
    throw new Error(`Of the contended requests ${faults.length} failed: ${faults[0] ?? ''}`);
}

/** A client that locks the two rows in the other order. */
async function lockBackwards(client: pg.Client): Promise<void> {
  const lock = (idx: number) =>
    client.query(`select from checkpoint_writes where thread_id = 'contended' and idx = $1 for update`, [
      idx,
    ]);
  await client.query('begin');
  try {
    await lock(1);
    await delay(30);
    await lock(0);
    await client.query('commit');
  } catch {
    await client.query('rollback');
  }
}

/** A client that changes the two rows, and takes its time before it commits. */
async function changeSlowly(client: pg.Client): Promise<void> {
  await client.query('begin');
  try {
    await client.query(`update checkpoint_writes set type = type where thread_id = 'contended'`);
    await delay(20);
    await client.query('commit');
  } catch {
    await client.query('rollback'); // it met a request halfway
  }
}

/** Writes until nothing is left of the file system. */
function fill(path: string): void {
  const file = openSync(path, 'w');
  const bytes = Buffer.alloc(1024 * 1024);
  try {
    for (let length = bytes.length; length >= 512; length /= 2) {
      try {
        for (;;) writeSync(file, bytes, 0, length);
      } catch (error) {
        if ((error as { code?: string }).code !== 'ENOSPC') throw error;
      }
    }
  } finally {
    closeSync(file);
  }
}

export const FAULTS: Fault[] = [
  {
    name: 'Postgres restarts',
    what: 'fast shutdown, down for a while, started again',
    evidence: /57P0|ECONN|^$/,
    apply: async ({ postgres }, wait) => {
      await postgres.stop();
      await delay(wait);
      await postgres.startAgain();
    },
  },
  {
    name: 'Postgres is killed',
    what: '`kill -9` of the postmaster; recovery from the log',
    evidence: /57P0|ECONN|^$/,
    apply: async ({ postgres }, wait) => {
      postgres.kill();
      await delay(wait);
      await postgres.startAgain();
    },
  },
  {
    name: 'Backends are terminated',
    what: '`pg_terminate_backend` of all connections, again and again',
    evidence: /57P01/,
    apply: async (world, wait) => {
      for (let n = 0; n < 10; n += 1) {
        await terminateService(world);
        await delay(wait / 10);
      }
    },
  },
  {
    name: 'Connections are reset',
    what: 'the network resets all connections, and new ones for a while',
    evidence: /ECONN|^$/,
    apply: async ({ network }, wait) => {
      network.mode = 'resetting';
      network.reset();
      await delay(wait);
      network.mode = 'open';
    },
  },
  {
    name: 'Half-open connections',
    what: 'every open connection loses all bytes and stays open; new ones work',
    evidence: /^$/,
    apply: ({ network }) => {
      network.loseConnections();
      return Promise.resolve();
    },
  },
  {
    name: 'A silent network',
    what: 'open and new connections lose all bytes, and stay open',
    evidence: /^$/,
    apply: async ({ network }, wait) => {
      network.mode = 'silent';
      network.loseConnections();
      await delay(wait + 7000); // longer than the service believes in a silence
      network.mode = 'open';
    },
  },
  {
    name: 'Read-only',
    what: '`default_transaction_read_only` for a while',
    evidence: /25006/,
    apply: async (world, wait) => {
      await alterSystem(world, 'set default_transaction_read_only = on');
      await delay(wait);
      await alterSystem(world, 'reset default_transaction_read_only');
    },
  },
  {
    name: 'Too many connections',
    what: "the connections of the service's role are ended, and no new one is let in (53300)",
    evidence: /53300/,
    apply: async (world, wait) => {
      // Refused as by a full server, but the script still gets in.
      await world.postgres.sql(`alter role ${ROLE} connection limit 0`);
      await terminateService(world);
      await delay(wait);
      await world.postgres.sql(`alter role ${ROLE} connection limit -1`);
    },
  },
  {
    name: 'The disk is full',
    what: 'the tables on a small file system that is filled to the last byte',
    evidence: /53100/,
    skip: async () => {
      try {
        await shell('unshare', ['--mount', 'true']);
        return null;
      } catch {
        return 'only root may mount a small file system';
      }
    },
    apply: async (world, wait) => {
      const path = world.directoryForPostgres('small');
      const ballast = join(path, 'ballast');
      const move = async (tablespace: string) => {
        await terminateService(world);
        const from = tablespace === 'small' ? 'pg_default' : 'small';
        for (const kind of ['table', 'index']) {
          await untilNotDeadlocked(() =>
            world.postgres.sql(
              `alter ${kind} all in tablespace ${from} set tablespace ${tablespace}`,
              [],
              DATABASE,
            ),
          );
        }
      };
      await shell('mount', [
        '-t',
        'tmpfs',
        '-o',
        `size=256m,uid=${world.postgres.owner.uid},gid=${world.postgres.owner.gid},mode=700`,
        'tmpfs',
        path,
      ]);
      try {
        await world.postgres.sql(`create tablespace small location '${path}'`);
        await move('small');
        // After a long run there is room inside the tables, which a full disk does not take.
        await world.postgres.sql('vacuum full', [], DATABASE);
        fill(ballast);
        await delay(wait);
        rmSync(ballast);
        await delay(500);
        await move('pg_default');
        await world.postgres.sql('drop tablespace small');
      } finally {
        await shell('umount', ['-l', path]);
      }
    },
  },
  {
    name: 'A slow database',
    what: '100 ms more each way',
    apply: async ({ network }, wait) => {
      network.delayMs = 100;
      await delay(wait + 1000);
      network.delayMs = 0;
    },
  },
  {
    name: 'Deadlocks',
    what: 'another client locks the rows of requests in the opposite order',
    evidence: /40P01/,
    apply: async (world, wait) => {
      const client = await world.postgres.connect(DATABASE);
      await contended(world, async () => {
        const end = Date.now() + wait + 2000;
        while (Date.now() < end) await lockBackwards(client);
      });
      await client.end();
    },
  },
  {
    name: 'Serialisable by default',
    what: '`default_transaction_isolation = serializable` for the role, which the sessions of the service overrule',
    evidence: /57P01/,
    apply: async (world, wait) => {
      await world.postgres.sql(`alter role ${ROLE} set default_transaction_isolation = 'serializable'`);
      await terminateService(world);
      const client = await world.postgres.connect(DATABASE);
      await contended(world, async () => {
        const end = Date.now() + wait;
        while (Date.now() < end) await changeSlowly(client);
      });
      await client.end();
      await world.postgres.sql(`alter role ${ROLE} reset default_transaction_isolation`);
      await terminateService(world);
    },
  },
  {
    name: 'Locked tables',
    what: '`lock table checkpoints` by another client, for longer than a silence is believed',
    apply: async (world, wait) => {
      const client = await world.postgres.connect(DATABASE);
      await client.query('begin');
      await client.query('lock table checkpoints');
      await delay(wait + 4000);
      await client.query('commit');
      await client.end();
    },
  },
  {
    name: 'The service is killed',
    what: '`kill -9`, then started again',
    allowed: /^(ECONNREFUSED|ECONNRESET|EPIPE|socket hang up)$/,
    apply: async ({ instances: [instance] }) => {
      await instance?.end('SIGKILL');
      await instance?.start();
    },
  },
  {
    name: 'A rolling restart',
    what: 'a second instance; each one in turn gets SIGTERM and is started again',
    apply: async (world) => {
      const [first] = world.instances;
      const second = await world.newInstance();
      world.instances.push(second);
      for (const instance of [first, second]) {
        while (world.routed.length < 2) await delay(50);
        const code = await instance?.end('SIGTERM');
        if (code !== 0) throw new Error(`An instance ended with ${code ?? 'a signal'}`);
        if (instance === first) await instance?.start();
      }
      world.instances.pop();
    },
  },
  {
    name: 'A failover',
    what: '`kill -9` of the primary; a synchronous standby elsewhere is promoted',
    evidence: /57P0|ECONN|25006|^$/,
    once: true,
    apply: async (world, wait) => {
      const standby = await world.standby();
      await delay(wait / 2);
      world.network.target = standby.port; // before it is promoted: it is met read-only at first
      world.postgres.kill();
      world.network.reset();
      await delay(wait / 2);
      await standby.promote();
      await standby.sql('alter system reset synchronous_standby_names');
      await standby.sql('select pg_reload_conf()');
      world.postgres = standby;
    },
  },
];

/** Leaves nothing of the contended rows, which are nobody's history. */
export function forgetContended({ postgres }: World): Promise<unknown> {
  return postgres.sql(`delete from checkpoint_writes where thread_id = 'contended'`, [], DATABASE);
}
