import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import zlib from 'node:zlib';
import { type Encoding, encodingOf } from './content-type.js';
import { askForBody } from '../connections/expect-continue.js';
import type { Inflight } from '../../request/inflight.js';
import { onClose } from '../../request/on-close.js';
import type { Share } from '../../request/share.js';

/** Granted before anything has come. */
const FIRST_BYTES = 1024;
/** A body whose length is known is granted so many times what has come; others are granted twice. */
const AHEAD = 8;
/** What a compressed body may be longer than it is once inflated. */
const COMPRESSED_SLACK = 64 * 1024;

const INFLATERS: Record<Encoding, () => zlib.Gunzip | zlib.Inflate | zlib.BrotliDecompress> = {
  gzip: () => zlib.createGunzip(),
  deflate: () => zlib.createInflate(),
  br: () => zlib.createBrotliDecompress(),
};

/** Not a part of a body, which would keep the whole. */
const NOTHING = Buffer.alloc(0);

/** Gets the body, or what is wrong as the body parsers of Express say it: `{status, message}`. */
export type Done = (error: unknown, bytes?: Buffer) => void;

/**
 * Collects the body of a request, and inflates it. It takes memory as it comes, and nothing is taken off the socket while
 * there is no room. `express.raw` does less, at some 20 µs more.
 */
export function collectBody(
  request: IncomingMessage,
  share: Share,
  inflight: Inflight,
  limit: number,
  done: Done,
): void {
  const { 'content-encoding': header, 'content-length': announced } = request.headers;
  const encoding = header === undefined ? null : encodingOf(header);
  if (typeof encoding === 'string') {
    done({ status: 415, message: encoding });
    return;
  }
  const compression = encoding?.encoding ?? null;
  const length = Number(announced ?? ('transfer-encoding' in request.headers ? Infinity : 0));
  if (announced !== undefined && length > limit + (compression === null ? 0 : COMPRESSED_SLACK)) {
    done({ status: 413 });
    return;
  }
  const inflater = compression === null ? null : INFLATERS[compression]();
  const collector = new Collector(
    request,
    inflater,
    share,
    inflight,
    inflater === null ? length : Infinity,
    limit,
    done,
  );
  collector.begin();
}

class Collector {
  private bytes: Buffer = NOTHING;
  private received = 0;
  private isOver = false;
  /** A piece waits for memory. */
  private isWaiting = false;
  /** It was the last one: a stream whose end has come already says so at once, also while it is paused. */
  private hasEnded = false;
  private readonly source: Readable;

  constructor(
    private readonly request: IncomingMessage,
    private readonly inflater: (zlib.Gunzip | zlib.Inflate | zlib.BrotliDecompress) | null,
    private readonly share: Share,
    private readonly inflight: Inflight,
    /** Infinity: unknown. */
    private readonly length: number,
    private readonly limit: number,
    private readonly done: Done,
  ) {
    this.source = inflater ?? request;
  }

  begin(): void {
    if (this.inflight.need(this.share, Math.min(this.length, FIRST_BYTES), this.started)) this.started();
  }

  private readonly started = (error?: Error) => {
    if (error !== undefined) {
      this.stop(error);
      return;
    }
    const { request, inflater, share } = this;
    if (share.exchange !== null) askForBody(share.exchange.response);
    this.source.on('data', this.take).once('end', this.end);
    if (inflater === null) return;
    let compressed = 0;
    request.on('data', (chunk: Buffer) => {
      compressed += chunk.length;
      share.arrivedBytes += chunk.length;
      // Empty blocks inflate to nothing, without end.
      if (compressed > this.limit + COMPRESSED_SLACK) this.stop({ status: 413 });
    });
    inflater.once('error', this.broken);
    request.pipe(inflater);
    if (share.exchange === null) return;
    onClose(share.exchange.response, () => {
      inflater.close();
    });
  };

  private readonly take = (chunk: Buffer) => {
    const { share, limit, length } = this;
    const sum = this.received + chunk.length;
    if (sum > limit) {
      this.stop({ status: 413 });
      return;
    }
    if (sum > share.bodyBytes) {
      const granted = Math.min(length, limit, length === Infinity ? 2 * sum : AHEAD * sum);
      const goOn = (error?: Error) => {
        this.goOn(chunk, error);
      };
      if (!this.inflight.need(share, Math.max(sum, granted), goOn)) {
        this.isWaiting = true;
        this.source.pause();
        return;
      }
    }
    this.keepOrStop(chunk);
  };

  private goOn(chunk: Buffer, error: Error | undefined): void {
    if (this.isOver) return;
    if (error !== undefined) {
      this.stop(error);
      return;
    }
    this.isWaiting = false;
    if (!this.keepOrStop(chunk)) return;
    if (this.hasEnded) this.end();
    else this.source.resume();
  }

  /** Memory that the system does not give is this request's fault alone. */
  private keepOrStop(chunk: Buffer): boolean {
    try {
      this.keep(chunk);
      return true;
    } catch (error) {
      this.stop(error);
      return false;
    }
  }

  private keep(chunk: Buffer): void {
    const sum = this.received + chunk.length;
    // Most bodies come in one piece, which need not be copied. It is not written to: it has no room for more.
    if (this.received === 0) this.bytes = chunk;
    else {
      if (sum > this.bytes.length) {
        const larger = Buffer.allocUnsafe(Math.max(sum, this.share.bodyBytes));
        this.bytes.copy(larger, 0, 0, this.received);
        this.bytes = larger;
      }
      chunk.copy(this.bytes, this.received);
    }
    this.received = sum;
    this.share.arrivedBytes += chunk.length;
  }

  private readonly end = () => {
    if (this.isWaiting) {
      this.hasEnded = true;
      return;
    }
    this.isOver = true;
    const whole = this.bytes.subarray(0, this.received);
    this.bytes = NOTHING; // the request would keep it, with its listeners, until it is answered
    this.close();
    this.done(undefined, whole);
  };

  private readonly broken = ({ message }: Error) => {
    this.stop({ status: 400, message });
  };

  /** What comes behind the end of a compressed body is thrown away: left there, it would keep the connection from going on. */
  private close(): void {
    const { request, inflater } = this;
    if (inflater === null) return;
    request.unpipe(inflater);
    inflater.off('error', this.broken).on('error', () => undefined);
    inflater.close();
    request.resume();
  }

  private stop(error: unknown): void {
    if (this.isOver) return;
    this.isOver = true;
    this.source.off('data', this.take).off('end', this.end);
    this.close();
    this.request.resume();
    this.bytes = NOTHING;
    this.done(error);
  }
}
