import { X509Certificate } from 'node:crypto';
import { createSecureContext, type Server } from 'node:tls';
import type { Logger } from 'pino';
import type { Settings, TlsSettings } from '../../config/env.js';
import { textOfFile, textOfFileSync } from '../../config/regular-file.js';

/** How often the files are looked at: a mounted Secret is changed by moving a link, of which `fs.watch` says nothing. */
const LOOK_MS = 2000;

/** A certificate and its key, in PEM. */
interface Pair {
  cert: string;
  key: string;
}

/** What the service proves with who it is; follows the files that it is in. */
export class Certificate {
  private pair: Pair;
  private fault = '';

  /** @throws Error when the files cannot be read, or are no pair */
  constructor(
    private readonly files: TlsSettings,
    private readonly logger: Logger,
  ) {
    this.pair = { cert: textOfFileSync(files.cert), key: textOfFileSync(files.key) };
    logger.info(`TLS by the certificate ${described(this.pair)}`);
  }

  /** For the server that is to be made. */
  optionsFor({ headersTimeoutMs }: Settings) {
    return { ...contextOf(this.pair), handshakeTimeout: headersTimeoutMs };
  }

  /** New connections get what is in the files; the open ones go on. What is no pair is left out. */
  renewFor(server: Server): void {
    // One look after the other: files that cannot be read in time must not take all of the threads that read files.
    const lookLater = () => setTimeout(() => void this.look(server).then(goOn), LOOK_MS).unref();
    const goOn = () => {
      timer = lookLater();
    };
    let timer = lookLater();
    server.once('close', () => {
      clearTimeout(timer);
    });
  }

  private async look(server: Server): Promise<void> {
    try {
      const [cert, key] = await Promise.all([textOfFile(this.files.cert), textOfFile(this.files.key)]);
      if (cert !== this.pair.cert || key !== this.pair.key) {
        const what = described({ cert, key });
        server.setSecureContext(contextOf({ cert, key }));
        this.pair = { cert, key };
        this.logger.info(`TLS by a new certificate ${what}`);
      }
      this.fault = '';
    } catch (error) {
      const fault = error instanceof Error ? error.message : String(error);
      if (fault !== this.fault) this.logger.error(`TLS goes on with the former certificate: ${fault}`);
      this.fault = fault;
    }
  }
}

function contextOf(pair: Pair) {
  return { ...pair, minVersion: 'TLSv1.2' } as const;
}

/** @throws Error when it is no pair */
function described(pair: Pair): string {
  const { subject, validTo } = new X509Certificate(pair.cert);
  createSecureContext(pair);
  return `of ${subject.replaceAll('\n', ', ')}, valid until ${validTo}`;
}
