import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '@nestjs/common';
import type { Client, Pool, PoolClient } from 'pg';
import { faultOf, isAnswer, STILL_THERE } from './faults.js';

/** How long a connection may be silent, with a statement under way, before the server is asked about it. */
const SILENCE_MS = 4000;
/** … and longer by the time that this server needs at least to take what is still to be sent. */
const BYTES_PER_MS = 1000;
/** A server that does not answer a new connection for so long is taken for unreachable. */
const PROBE_MS = 5000;
const LOOK_MS = 1000;
/** How long a process may take to end. */
const TERMINATE_MS = 5000;
/** A server that has said nothing for longer, while it has statements, may be unreachable. */
const UNHEARD_MS = 1500;
/** What the silence and Postgres's own clock may differ by. */
const SLACK_MS = 1500;
/** Of a statement's text so much is compared; `track_activity_query_size` may be as small as 100. */
const TEXT_LENGTH = 80;

/** What pg keeps of a connection. */
type Connection = Client & {
  readyForQuery?: boolean;
  processID: number;
  connection: { stream: import('node:net').Socket };
  _getActiveQuery?: () => { text?: string } | null;
};

/** What the server says of a session of ours. */
interface Session {
  pid: number;
  isAtWork: boolean;
  /** Whether it says what it is at; not with track_activities off. */
  isTold: boolean;
  text: string;
  /** Of its transaction: that of its statement begins anew when a prepared one is executed. In milliseconds. */
  age: string;
}

type IsAtWork = (connection: Connection, silence: number) => boolean;

// With track_activities off there is still what a process waits for: one that is at nothing reads from its client.
const SESSIONS = `
  select pid,
         wait_event is distinct from 'ClientWrite'
           and (state = 'active' or (state = 'disabled' and wait_event is distinct from 'ClientRead')) as "isAtWork",
         state is distinct from 'disabled' as "isTold",
         pg_catalog.left(query, ${TEXT_LENGTH}) as text,
         extract(epoch from pg_catalog.clock_timestamp() - xact_start) * 1000 as age
    from pg_catalog.pg_stat_activity
   where pid <> pg_catalog.pg_backend_pid() and usename = current_user and datname = pg_catalog.current_database()`;

/**
 * Watches the pool's connections. One whose other end went without a word stays open for many minutes as far as TCP is
 * concerned: when a statement has had no answer for some seconds, the server is asked over a new connection whether it is
 * still at it, and if not, the connection is closed, and the statement fails as with any other lost connection. Costs a
 * request nothing.
 */
export class Watchdog {
  private readonly connections = new Set<Connection>();
  /** How far each has come, and since when. */
  private readonly progress = new WeakMap<Connection, { query: unknown; bytes: number; since: number }>();
  /** Server processes that had a statement which writes when their connection was lost, and may be at it still. */
  private readonly lost = new Set<number>();
  private fencing: Promise<void> | undefined;
  private probing = false;
  /** What all connections have received, and when that last changed or the server was asked and answered. */
  private bytesRead = 0;
  private heardAt = performance.now();
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly pool: Pool,
    private readonly logger: Logger,
    /** Behind a pooler the numbers of the server's processes are not known. */
    private readonly isPooled: boolean,
  ) {
    // Not when they are made: the first one is, before anybody can watch.
    pool.on('acquire', (client) => {
      const connection = client as unknown as Connection;
      if (this.connections.has(connection)) return;
      this.connections.add(connection);
      // An error that nobody listens for would end this process.
      connection.on('error', () => undefined);
    });
    pool.on('remove', (client) => this.connections.delete(client as unknown as Connection));
    this.timer = setInterval(() => void this.look(), LOOK_MS).unref();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** Whether it is still to be found out if the server can be reached. */
  get isInDoubt(): boolean {
    return performance.now() - this.heardAt > UNHEARD_MS;
  }

  /** The connection was lost with a statement under way that writes. */
  lose(client: PoolClient): void {
    if (!this.isPooled) this.lost.add((client as unknown as Connection).processID);
  }

  /** Whether something may be under way that nobody waits for any more. */
  get hasLost(): boolean {
    return this.lost.size > 0;
  }

  /**
   * Ends what lost connections left running; nothing else is begun before. Such a statement, held up by a lock or in the
   * network, could be carried out after its own repetition, and after what the caller did next: a thread that was deleted
   * would be back. @throws StillThereError
   */
  async fence(): Promise<void> {
    while (this.lost.size > 0) {
      this.fencing ??= this.terminate([...this.lost]).finally(() => (this.fencing = undefined));
      await this.fencing;
    }
  }

  private async terminate(pids: number[]): Promise<void> {
    const { rows } = await this.pool.query<{ pid: number }>(
      // After a failover the numbers are other connections', which began after those that were lost. Materialized, since
      // Postgres evaluates the conditions of one query in an order of its own, and would terminate before it compares.
      `with lost as materialized (
         select other.pid
           from pg_catalog.pg_stat_activity as other
           join pg_catalog.pg_stat_activity as own on own.pid = pg_catalog.pg_backend_pid()
          where other.pid = any($1::int[]) and other.pid <> own.pid and other.usename = own.usename
            and other.application_name = own.application_name and other.backend_start < own.backend_start)
       select pid from lost where not pg_catalog.pg_terminate_backend(pid, ${TERMINATE_MS})`,
      [pids],
    );
    const there = new Set(rows.map(({ pid }) => pid));
    for (const pid of pids) if (!there.has(pid)) this.lost.delete(pid);
    if (there.size > 0) throw new StillThereError();
  }

  /** Closes the connections that have nothing to do: they may lead to where a statement has just failed. */
  dropIdle(): void {
    for (const connection of this.connections) {
      if (connection.readyForQuery === true) connection.connection.stream.destroy();
    }
  }

  private async look(): Promise<void> {
    this.listen();
    // Also when nothing is to be sent here: other instances go on.
    if (this.hasLost) void this.fence().catch(() => undefined);
    const silent = [...this.connections].filter((connection) => this.silenceOf(connection) > SILENCE_MS);
    if (silent.length === 0 || this.probing) return;
    this.probing = true;
    const isAtWork = await this.probe().finally(() => (this.probing = false));
    if (isAtWork !== null) this.heardAt = performance.now();
    const dead = silent.filter((connection) => {
      const silence = this.silenceOf(connection);
      return silence > SILENCE_MS && isAtWork?.(connection, silence) !== true;
    });
    if (dead.length === 0) return;
    this.logger.warn(`${dead.length} connection(s) closed: the server knows nothing of their statements`);
    for (const { connection } of dead) connection.stream.destroy();
    this.dropIdle();
  }

  private listen(): void {
    let bytesRead = 0;
    let isBusy = false;
    for (const connection of this.connections) {
      bytesRead += connection.connection.stream.bytesRead;
      isBusy ||= connection.readyForQuery !== true;
    }
    if (!isBusy || bytesRead !== this.bytesRead) this.heardAt = performance.now();
    this.bytesRead = bytesRead;
  }

  /** For how many milliseconds nothing has moved; 0 without a statement. */
  private silenceOf(connection: Connection): number {
    const query = connection._getActiveQuery?.() ?? null;
    if (query === null) return 0;
    const { stream } = connection.connection;
    const bytes = stream.bytesRead + stream.bytesWritten - stream.writableLength;
    const before = this.progress.get(connection);
    if (before?.query !== query || before.bytes !== bytes) {
      this.progress.set(connection, { query, bytes, since: performance.now() });
      return 0;
    }
    return performance.now() - before.since - stream.writableLength / BYTES_PER_MS;
  }

  /** Whether the server has been at a connection's statement for so long; null when it does not answer. */
  private async probe(): Promise<IsAtWork | null> {
    // pg-pool's own way to make one; its options hold the password, out of sight of a copy.
    const { Client, options } = this.pool as unknown as {
      Client: new (options: object) => Connection;
      options: object;
    };
    const client = new Client(options);
    client.on('error', () => undefined);
    const expired = new AbortController();
    const asked = performance.now();
    try {
      const sessions = await Promise.race([
        client.connect().then(async () => (await client.query<Session>(SESSIONS)).rows),
        delay(PROBE_MS, null, { signal: expired.signal }),
      ]);
      return sessions && ((connection, silence) => this.isAtWork(connection, silence, sessions, asked));
    } catch (error) {
      // Too many connections, starting up: it can be reached, so its sessions' ends would have been heard of.
      return isAnswer(faultOf(error)) ? () => true : null;
    } finally {
      expired.abort();
      client.connection.stream.destroy();
    }
  }

  /** By process; by text and age where the processes are not known, which says little when many send the same. */
  private isAtWork(connection: Connection, silence: number, sessions: Session[], asked: number): boolean {
    const session = this.isPooled ? undefined : sessions.find(({ pid }) => pid === connection.processID);
    if (session !== undefined) return session.isAtWork;
    const text = textOf(connection);
    const since = silence - (performance.now() - asked) - SLACK_MS;
    if (sessions.some((other) => other.isAtWork && other.text === text && Number(other.age) > since))
      return true;
    // With track_activities off, and processes that are a pooler's, nothing says so: Postgres ends it in time.
    const isKnown = [...this.connections].some(({ processID }) =>
      sessions.some(({ pid }) => pid === processID),
    );
    return (this.isPooled || !isKnown) && sessions.some(({ isTold }) => !isTold);
  }
}

/** Lost connections' statements are being ended still: it takes Postgres long to notice, or it cannot yet. */
class StillThereError extends Error {
  readonly code = STILL_THERE;

  constructor() {
    super('What a lost connection was about is still under way');
  }
}

function textOf(connection: Connection): string {
  return connection._getActiveQuery?.()?.text?.slice(0, TEXT_LENGTH) ?? '';
}
