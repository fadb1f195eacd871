import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { type ClientConfig, Query, type QueryConfig } from 'pg';
import { parse } from 'pg-protocol';
import { NoRoomError, type Reading } from '../request/read-memory.js';
import { PreparedClient } from './prepared-client.js';

const OIDS = { int4: 23, bytea: 17 };
const DATA_ROW = 0x44;
const BIND = 0x42;
const HEADER_BYTES = 5;
/** Of pieces and of fields, in bytes: smaller ones are joined, and become Base64. */
export const LARGE = 64 * 1024;
/** Of rows that are not kept: so many are read for the sake of the connection, in bytes. A new one costs some 15 ms of CPU. */
const DRAINED = 4 * 1024 * 1024;

/** A parameter in pieces, which together are its value in binary. */
export class Pieces {
  constructor(readonly pieces: Buffer[]) {}

  get length(): number {
    return this.pieces.reduce((sum, { length }) => sum + length, 0);
  }

  /** What clients of pg as it comes send. */
  toPostgres(): Buffer {
    return Buffer.concat(this.pieces);
  }
}

/** An answer of Postgres has more bytes than were asked for; those that came are gone, and perhaps the connection. */
export class TooManyBytesError extends Error {}

/** What this file knows of pg's connection, which has no types. */
interface Connection {
  stream: Duplex;
  /** Statements that are prepared, or are being so, by name. */
  parsedStatements: Record<string, string | undefined>;
  submittedNamedStatements: Record<string, string | undefined>;
  /** Added here: how the rows of prepared statements are read, and what counts those of the statement under way. */
  decoders: Map<string, Decoder[]>;
  reading: Reading | null;
  touch: (name?: string) => void;
  attachListeners: (stream: Duplex) => void;
  parse: (message: { name: string; text: string }) => void;
  bind: (message: Bind) => void;
  sendCopyFail: (message: string) => void;
  emit: (name: string, message: unknown) => void;
}

interface Bind {
  portal: string;
  statement?: string;
  values?: unknown[];
  binary?: boolean;
  valueMapper: (value: unknown) => Buffer | string | null;
}

interface Field {
  dataTypeID: number;
}

/** Of a statement; a text, or a value in binary. */
export type Parameter = string | Buffer | Pieces | null;

export type Value = string | number | Buffer | null;

/**
 * pg's client, for `Statement`s among others. pg reads every field as UTF-8, so blobs would have to be encoded by Postgres,
 * whose line breaks are then removed: 8 MB take Node 54 ms so, and 1.4 ms here; 2 KB 1.0 and 0.2 µs. What is large is not
 * copied: pg doubles its buffer until a row fits, and copies a parameter twice.
 */
export class BinaryClient extends PreparedClient {
  constructor(config?: ClientConfig & { maxRowBytes?: number }) {
    super(config);
    const { connection } = this as unknown as { connection: Connection };
    const { bind } = connection;
    connection.decoders = new Map();
    connection.reading = null;
    connection.attachListeners = (stream) => {
      listen(connection, stream, config?.maxRowBytes ?? Infinity);
    };
    connection.bind = (message) => {
      if (message.values?.some((value) => value instanceof Pieces)) {
        connection.touch(message.statement);
        bindPieces(connection, message);
      } else bind.call(connection, message);
    };
  }
}

/** What is asked after Bind: to describe the rows (D), to execute (E), to end what belongs together (S). */
const EXECUTE = Buffer.from('450000000900000000005300000004', 'hex');
const EXECUTE_FIRST = EXECUTE.subarray(0, 10);
const DESCRIBE = Buffer.concat([Buffer.from('44000000065000', 'hex'), EXECUTE]);

/**
 * A statement for a `BinaryClient`, answered in binary: `int4` as a number, `bytea` as Base64, or from 64 KB on as a Buffer,
 * anything else as text. What pg does around a statement of its own, such as to have the rows of a prepared
 * one described each time, costs some 20 µs of CPU.
 */
export class Statement {
  readonly rows: Value[][] = [];
  /** pg's, called once. */
  callback: ((error: Error | null, result?: Statement) => void) | undefined;
  /** It failed before it was known whether its name is prepared: the connection is of no more use. */
  leavesDoubt = false;
  /** It closed the connection, rather than read all the rows that it does not keep. */
  hasClosed = false;
  private drained = 0;
  private stream: Duplex | undefined;
  private decoders: Decoder[] | undefined;
  private fault: Error | null = null;
  bytes = 0;
  private isPrepared = true;
  /** What comes is the answer to `before`. */
  private isBefore: boolean;

  constructor(
    /** Of one that is to stay prepared. */
    readonly name: string | undefined,
    readonly text: string,
    private readonly values: Parameter[],
    /** Rows beyond them are read and forgotten, and the statement fails with a `TooManyBytesError`. */
    readonly maxBytes = Infinity,
    /** A statement that goes first, in the same transaction, and whose rows nobody reads; '': none. */
    private readonly before = '',
    /** Without room for its rows the statement fails with a `NoRoomError`. */
    readonly reading: Reading | null = null,
    /** Gives each `bytea` as a Buffer. */
    private readonly keepsBytes = false,
  ) {
    this.isBefore = before !== '';
  }

  submit(connection: Connection): void {
    const { name = '', text, values } = this;
    const { stream, parsedStatements, submittedNamedStatements } = connection;
    this.decoders = connection.decoders.get(name);
    connection.reading = this.reading;
    this.stream = stream;
    stream.cork();
    if (this.before !== '') {
      connection.parse({ name: '', text: this.before });
      connection.bind({ portal: '', statement: '', values: [], binary: true, valueMapper: asItIs });
      if (stream.writable) stream.write(EXECUTE_FIRST);
    }
    if (name === '' || (parsedStatements[name] ?? submittedNamedStatements[name]) === undefined) {
      connection.parse({ name, text });
      if (name !== '') submittedNamedStatements[name] = text;
      this.isPrepared = false;
    }
    connection.bind({ portal: '', statement: name, values, binary: true, valueMapper: asItIs });
    if (stream.writable) stream.write(this.decoders === undefined ? DESCRIBE : EXECUTE);
    stream.uncork();
  }

  handleRowDescription({ fields }: { fields: Field[] }): void {
    this.decoders = fields.map((field) => decoderOf(field, this.keepsBytes));
  }

  handleDataRow(row: DataRow | LostRow): void {
    if (this.isBefore) return;
    this.bytes += row.length;
    const fault = reasonToDrop(this, row);
    if (fault !== null) {
      this.rows.length = 0;
      this.fault = fault;
      this.drain(row.length);
      return;
    }
    try {
      this.rows.push(row.read(this.decoders));
    } catch (error) {
      this.fault = error as Error; // a text that is too long for V8
    }
  }

  private drain(bytes: number): void {
    this.drained += bytes;
    if (this.drained <= DRAINED || this.hasClosed) return;
    this.hasClosed = true;
    this.stream?.destroy();
  }

  handleReadyForQuery(connection: Connection): void {
    connection.reading = null;
    // What a name stands for does not change, nor do its columns; one without rows has none.
    if (this.name !== undefined) connection.decoders.set(this.name, this.decoders ?? []);
    this.callback?.(this.fault, this);
  }

  handleError(error: Error, connection: Connection): void {
    connection.reading = null;
    this.leavesDoubt = this.before !== '' && !this.isPrepared;
    this.callback?.(this.hasClosed ? this.fault : error);
  }

  handleCopyInResponse(connection: Connection): void {
    connection.sendCopyFail('no statement of this service copies');
  }

  handleCommandComplete(): void {
    this.isBefore = false;
  }

  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
  handleCopyData(): void {}
}

function asItIs(value: unknown): Buffer | string | null {
  return value as Buffer | string | null;
}

/** Of pg's class its types say nothing. */
interface RowQuery {
  _result: { rows: unknown[] };
  /** What the callback gets in place of the rows, once all of them have come. */
  _canceledDueToError: Error | false;
  submit(connection: Connection): Error | null;
  handleDataRow(message: { length: number; isCounted?: boolean }): void;
  handleReadyForQuery(connection: Connection): void;
  handleError(error: Error, connection: Connection): void;
}

/** What `Statement` does with its `maxBytes` and `reading`, for pg's own results and for clients of pg as it comes. */
export class BoundedQuery extends (Query as unknown as new (
  config: QueryConfig & { rowMode?: 'array' },
) => RowQuery) {
  bytes = 0;

  constructor(
    config: QueryConfig & { rowMode?: 'array' },
    readonly maxBytes: number,
    readonly reading: Reading,
  ) {
    super(config);
  }

  override submit(connection: Connection): Error | null {
    connection.reading = this.reading;
    return super.submit(connection);
  }

  override handleDataRow(message: { length: number; isCounted?: boolean }): void {
    if (this._canceledDueToError !== false) return;
    const { length, isCounted = false } = message;
    this.bytes += length;
    const fault = reasonToDrop(this, { length, isCounted });
    if (fault === null) super.handleDataRow(message);
    else {
      this._result.rows = [];
      this._canceledDueToError = fault;
    }
  }

  override handleReadyForQuery(connection: Connection): void {
    connection.reading = null;
    super.handleReadyForQuery(connection);
  }

  override handleError(error: Error, connection: Connection): void {
    connection.reading = null;
    super.handleError(error, connection);
  }
}

/** Why the rows are not to be kept, now that one more has come; null: they are. */
function reasonToDrop(
  { bytes, maxBytes, reading }: { bytes: number; maxBytes: number; reading: Reading | null },
  { length, isCounted }: { length: number; isCounted: boolean },
): Error | null {
  if (bytes > maxBytes) {
    reading?.end();
    return new TooManyBytesError();
  }
  return reading?.take(isCounted ? 0 : length) === false ? new NoRoomError() : null;
}

/** Emits what the server says, as pg's own connection does. */
function listen(connection: Connection, stream: Duplex, maxRowBytes: number): void {
  const others = new EventEmitter();
  void parse(others as unknown as NodeJS.ReadableStream, (message) => {
    const name: string = message.name;
    connection.emit(name === 'error' ? 'errorMessage' : name, message);
  });
  const messages = new Messages(
    (length) => length <= maxRowBytes && connection.reading?.take(length) !== false,
    (bytes) => others.emit('data', bytes),
    (row) => {
      connection.emit('dataRow', row);
    },
  );
  stream.on('data', (bytes: Buffer) => {
    messages.read(bytes);
  });
}

/** A row, which is to be read before the call that brings it returns. */
class DataRow {
  constructor(
    readonly bytes: Buffer,
    readonly at: number,
    /** Whether the bytes are this row's alone, so that large fields may be slices of them. */
    readonly isOwn: boolean,
  ) {}

  get length(): number {
    return lengthOf(this.bytes, this.at - HEADER_BYTES);
  }

  /** Whether it was counted when its first bytes came. */
  get isCounted(): boolean {
    return this.isOwn;
  }

  read(decoders?: Decoder[]): Value[] {
    return fieldsOf(this.bytes, this.at, decoders, this.isOwn);
  }

  /** For pg's own queries. */
  get fields(): Value[] {
    return this.read();
  }
}

/** A row that was too large to be kept, or for which there was no room. */
class LostRow {
  readonly isCounted = true;

  constructor(readonly length: number) {}

  read(): never {
    throw new TooManyBytesError();
  }

  get fields(): never {
    return this.read();
  }
}

/** Cuts a stream into messages. Each is a byte that tells its kind, then its length as a 32-bit integer, that byte left out. */
class Messages {
  /** One that began, and how many of its bytes have come. Nothing is known of its length until its header is there. */
  private begun: Buffer | null = null;
  private come = 0;
  /** What is still to come of a row that is not kept. */
  private lost = 0;

  constructor(
    /** Whether a row of so many bytes, of which the first have come, may be kept. */
    private readonly hasRoom: (length: number) => boolean,
    /** Gets whole messages of other kinds. */
    private readonly others: (bytes: Buffer) => void,
    private readonly row: (row: DataRow | LostRow) => void,
  ) {}

  read(bytes: Buffer): void {
    while (this.begun !== null) {
      const copied = bytes.copy(this.begun, this.come);
      this.come += copied;
      if (this.come < this.begun.length) return;
      bytes = bytes.subarray(copied);
      const message = this.begun;
      this.begun = null;
      if (lengthOf(message, 0) > message.length) this.begin(message);
      else this.whole(message, true);
    }
    // Also of a row whose header alone had begun.
    const lost = Math.min(this.lost, bytes.length);
    this.lost -= lost;
    bytes = bytes.subarray(lost);
    const read = this.whole(bytes);
    if (read < bytes.length) this.begin(bytes.subarray(read));
  }

  private begin(bytes: Buffer): void {
    const length = bytes.length < HEADER_BYTES ? HEADER_BYTES : lengthOf(bytes, 0);
    if (bytes[0] === DATA_ROW && bytes.length >= HEADER_BYTES && !this.hasRoom(length)) {
      this.lost = length - bytes.length;
      this.row(new LostRow(length));
      return;
    }
    this.begun = Buffer.allocUnsafe(length);
    this.come = bytes.copy(this.begun);
  }

  /** Hands on the messages that are whole; returns where the first one begins that is not. */
  private whole(bytes: Buffer, isOwn = false): number {
    let begin = 0;
    let at = 0;
    while (at + HEADER_BYTES <= bytes.length) {
      const end = at + lengthOf(bytes, at);
      if (end > bytes.length) break;
      if (bytes[at] === DATA_ROW) {
        if (begin < at) this.others(bytes.subarray(begin, at));
        this.row(new DataRow(bytes, at + HEADER_BYTES, isOwn));
        begin = end;
      }
      at = end;
    }
    if (begin < at) this.others(bytes.subarray(begin, at));
    return at;
  }
}

function lengthOf(bytes: Buffer, at: number): number {
  return 1 + bytes.readUInt32BE(at + 1);
}

type Decoder = (bytes: Buffer, start: number, end: number, isOwn: boolean) => string | number | Buffer;

function decoderOf({ dataTypeID }: Field, keepsBytes: boolean): Decoder {
  if (dataTypeID === OIDS.bytea) return keepsBytes ? bytesOf : bytea;
  return dataTypeID === OIDS.int4 ? int4 : utf8;
}

const bytea: Decoder = (bytes, start, end, isOwn) =>
  end - start < LARGE ? bytes.toString('base64', start, end) : bytesOf(bytes, start, end, isOwn);
const bytesOf: Decoder = (bytes, start, end, isOwn) => {
  if (isOwn) return bytes.subarray(start, end);
  const large = Buffer.allocUnsafe(end - start);
  bytes.copy(large, 0, start, end);
  return large;
};
const int4: Decoder = (bytes, start) => bytes.readInt32BE(start);
const utf8: Decoder = (bytes, start, end) => bytes.toString('utf8', start, end);

/** The number of fields, then each behind its length, which is -1 for null. */
function fieldsOf(bytes: Buffer, at: number, decoders: Decoder[] = [], isOwn = false): Value[] {
  const count = bytes.readInt16BE(at);
  const fields = new Array<Value>(count);
  at += 2;
  for (let n = 0; n < count; n += 1) {
    const length = bytes.readInt32BE(at);
    at += 4;
    if (length === -1) fields[n] = null;
    else {
      fields[n] = (decoders[n] ?? utf8)(bytes, at, at + length, isOwn);
      at += length;
    }
  }
  return fields;
}

/** Sends a Bind message, whose large pieces go to the socket as they are. */
function bindPieces(
  { stream }: Connection,
  { portal, statement, values = [], binary, valueMapper }: Bind,
): void {
  const parameters = values.map((value) => (value instanceof Pieces ? value : valueMapper(value)));
  const formats = parameters.map((value) => (typeof value === 'string' ? 0 : 1));
  const pieces = [
    Buffer.from(`${portal}\0${statement ?? ''}\0`),
    int16s(formats.length, ...formats, formats.length),
  ];
  for (const value of parameters) {
    if (value instanceof Pieces) {
      pieces.push(int32(value.length));
      for (const piece of value.pieces) pieces.push(piece);
    } else if (value === null) pieces.push(int32(-1));
    else {
      const bytes = typeof value === 'string' ? Buffer.from(value) : value;
      pieces.push(int32(bytes.length), bytes);
    }
  }
  pieces.push(int16s(1, binary === true ? 1 : 0));
  const length = 4 + pieces.reduce((sum, piece) => sum + piece.length, 0);
  let small = [Buffer.from([BIND]), int32(length)];
  for (const piece of pieces) {
    if (piece.length < LARGE) small.push(piece);
    else {
      stream.write(Buffer.concat(small));
      stream.write(piece);
      small = [];
    }
  }
  stream.write(Buffer.concat(small));
}

function int16s(...numbers: number[]): Buffer {
  const bytes = Buffer.allocUnsafe(2 * numbers.length);
  numbers.forEach((number, at) => bytes.writeInt16BE(number, 2 * at));
  return bytes;
}

function int32(number: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeInt32BE(number);
  return bytes;
}
