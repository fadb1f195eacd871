import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A certificate and its key, in PEM. */
export interface Pair {
  cert: string;
  key: string;
}

/** Makes certificates, by the openssl command. */
export class Authority {
  private readonly directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-authority-'));
  private issued = 0;

  constructor() {
    this.make('authority', '/CN=authority', ['-addext', 'basicConstraints=critical,CA:TRUE']);
  }

  /** Its own certificate, by which others know those that it issued. */
  get cert(): string {
    return this.read('authority').cert;
  }

  /** `names` as in `subjectAltName`, such as `DNS:localhost,IP:127.0.0.1`. */
  issue(names: string, commonName = 'checkpoint-backend'): Pair {
    const name = `issued-${(this.issued += 1)}`;
    const [ca, key] = [join(this.directory, 'authority.crt'), join(this.directory, 'authority.key')];
    this.make(name, `/CN=${commonName}`, [
      ...['-CA', ca, '-CAkey', key],
      ...['-addext', `subjectAltName=${names}`, '-addext', 'basicConstraints=critical,CA:FALSE'],
    ]);
    return this.read(name);
  }

  remove(): void {
    rmSync(this.directory, { recursive: true });
  }

  private make(name: string, subject: string, options: string[]): void {
    const [cert, key] = [join(this.directory, `${name}.crt`), join(this.directory, `${name}.key`)];
    const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
    execFileSync(
      'openssl',
      ['req', '-x509', ...newKey, '-days', '2', '-subj', subject, '-keyout', key, '-out', cert, ...options],
      { stdio: 'pipe' },
    );
  }

  private read(name: string): Pair {
    const [cert, key] = ['crt', 'key'].map((kind) => {
      return readFileSync(join(this.directory, `${name}.${kind}`), 'utf8');
    }) as [string, string];
    return { cert, key };
  }
}
