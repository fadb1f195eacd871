import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '@nestjs/common';
import type { Client, Pool } from 'pg';
import { faultOf, isAnswer } from './faults.js';

/** How long a connection may be silent, with a statement under way, before the server is asked about it. */
const SILENCE_MS = 4000;
/** … and longer by the time that this server needs at least to take what is still to be sent. */
const BYTES_PER_MS = 1000;
/** A server that does not answer a new connection for so long is taken for unreachable. */
const PROBE_MS = 5000;
const LOOK_MS = 1000;
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
  /** Server processes that had a statement when their connection was lost, and may be at it still. */
  private readonly lost = new Set<number>();
  private fencing: Promise<void> | undefined;
  private probing = false;
  /** What all connections have received, and when that last changed or the server was asked and answered. */
  private bytesRead = 0;
  private heardAt = Date.now();
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly pool: Pool,
    private readonly logger: Logger,
  ) {
    // Not when they are made: the first one is, before anybody can watch.
    pool.on('acquire', (client) => {
      const connection = client as unknown as Connection;
      if (this.connections.has(connection)) return;
      this.connections.add(connection);
      // Also keeps the process alive: an error that nobody listens for would end it.
      connection.on('error', () => {
        if (!connection.readyForQuery) this.lost.add(connection.processID);
      });
    });
    pool.on('remove', (client) => this.connections.delete(client as unknown as Connection));
    this.timer = setInterval(() => void this.look(), LOOK_MS).unref();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** Whether it is still to be found out if the server can be reached. */
  get isInDoubt(): boolean {
    return Date.now() - this.heardAt > UNHEARD_MS;
  }

  /**
   * Ends what lost connections left running. Else such a statement, held up by a lock or in the network, could be carried
   * out after its own repetition, and after what the caller did next: a thread that was deleted would be back.
   */
  async fence(): Promise<void> {
    while (this.lost.size > 0) {
      this.fencing ??= this.terminate([...this.lost]).finally(() => (this.fencing = undefined));
      await this.fencing;
    }
  }

  private async terminate(pids: number[]): Promise<void> {
    await this.pool.query(
      // After a failover the numbers are other connections', which began after those that were lost.
      `select pg_terminate_backend(other.pid, 5000)
         from pg_stat_activity as other
         join pg_stat_activity as own on own.pid = pg_backend_pid()
        where other.pid = any($1::int[]) and other.pid <> own.pid and other.usename = own.usename
          and other.application_name = own.application_name and other.backend_start < own.backend_start`,
      [pids],
    );
    for (const pid of pids) this.lost.delete(pid);
  }

  /** Closes the connections that have nothing to do: they may lead to where a statement has just failed. */
  dropIdle(): void {
    for (const connection of this.connections) {
      if (connection.readyForQuery === true) connection.connection.stream.destroy();
    }
  }

  private async look(): Promise<void> {
    this.listen();
    const silent = [...this.connections].filter((connection) => this.silenceOf(connection) > SILENCE_MS);
    if (silent.length === 0 || this.probing) return;
    this.probing = true;
    const isAtWork = await this.probe().finally(() => (this.probing = false));
    if (isAtWork !== null) this.heardAt = Date.now();
    const dead = silent.filter((connection) => {
      const silence = this.silenceOf(connection);
      return silence > SILENCE_MS && isAtWork?.(textOf(connection), silence) !== true;
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
    if (!isBusy || bytesRead !== this.bytesRead) this.heardAt = Date.now();
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
      this.progress.set(connection, { query, bytes, since: Date.now() });
      return 0;
    }
    return Date.now() - before.since - stream.writableLength / BYTES_PER_MS;
  }

  /**
   * Whether the server has been at a statement for so long; null when it does not answer. By text, not by process: behind a
   * pooler that is not known.
   */
  private async probe(): Promise<((text: string, silence: number) => boolean) | null> {
    // pg-pool's own way to make one; its options hold the password, out of sight of a copy.
    const { Client, options } = this.pool as unknown as {
      Client: new (options: object) => Connection;
      options: object;
    };
    const client = new Client(options);
    client.on('error', () => undefined);
    const expired = new AbortController();
    const asked = Date.now();
    try {
      const rows = await Promise.race([
        client.connect().then(async () => {
          const sql = `
            select left(query, ${TEXT_LENGTH}) as text, extract(epoch from clock_timestamp() - query_start) * 1000 as age
              from pg_stat_activity
             where state = 'active' and wait_event is distinct from 'ClientWrite'
               and usename = current_user and datname = current_database()`;
          return (await client.query<{ text: string; age: string }>(sql)).rows;
        }),
        delay(PROBE_MS, null, { signal: expired.signal }),
      ]);
      if (rows === null) return null;
      return (text, silence) =>
        rows.some((row) => row.text === text && Number(row.age) > silence - (Date.now() - asked) - SLACK_MS);
    } catch (error) {
      // Too many connections, starting up: it can be reached, so its sessions' ends would have been heard of.
      return isAnswer(faultOf(error)) ? () => true : null;
    } finally {
      expired.abort();
      client.connection.stream.destroy();
    }
  }
}

function textOf(connection: Connection): string {
  return connection._getActiveQuery?.()?.text?.slice(0, TEXT_LENGTH) ?? '';
}
