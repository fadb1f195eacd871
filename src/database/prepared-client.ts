import { createHash } from 'node:crypto';
import { Client, type ClientConfig } from 'pg';

/** Statements that keep their plan on a connection; a plan takes Postgres 50 to 420 kB. */
const MAX_PREPARED = 32;
/** Texts whose name is remembered: a hash costs more than the look-up. */
const MAX_NAMES = 512;

/** What this file knows of pg's connection, which has no types. */
interface Connection {
  parsedStatements: Record<string, string | undefined>;
  decoders?: Map<string, unknown>;
  /** Added here: the statement is being used. */
  touch: (name?: string) => void;
  parse: (message: { name?: string | undefined; text: string }) => void;
  bind: (message: { statement?: string }) => void;
  close: (message: { type: 'S'; name: string }) => void;
}

/**
 * The name of a statement that is to stay prepared: a hash of its text. Behind a pooler that keeps no prepared statements a
 * connection of ours leads to sessions that others prepared statements in, other instances and releases among them: a name
 * must mean the same to all.
 */
export class StatementNames {
  private readonly names = new Map<string, string>();

  nameOf(sql: string): string {
    let name = this.names.get(sql);
    if (name === undefined) {
      name = `checkpoint-${createHash('sha256').update(sql).digest('base64url').slice(0, 32)}`;
      if (this.names.size >= MAX_NAMES) this.names.delete(this.names.keys().next().value ?? '');
      this.names.set(sql, name);
    }
    return name;
  }
}

/** pg's client; of the statements that it prepares those stay so that were used last. */
export class PreparedClient extends Client {
  constructor(config?: ClientConfig | string) {
    super(config);
    const { connection } = this as unknown as { connection: Connection };
    const { parse, bind } = connection;
    /** By name, the one that was used last at the end. */
    const used = new Set<string>();
    connection.parse = (message) => {
      const { name = '' } = message;
      if (name !== '' && !used.has(name) && used.size >= MAX_PREPARED) {
        const [oldest = ''] = used;
        used.delete(oldest);
        connection.close({ type: 'S', name: oldest });
        // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- it is pg's
        delete connection.parsedStatements[oldest];
        connection.decoders?.delete(oldest);
      }
      parse.call(connection, message);
    };
    connection.touch = (name = '') => {
      if (name === '') return;
      used.delete(name);
      used.add(name);
    };
    connection.bind = (message) => {
      connection.touch(message.statement);
      bind.call(connection, message);
    };
  }
}
