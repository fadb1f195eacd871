import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { z } from 'zod';
import { type AUTH_MODES, DECLARATIONS, ENVIRONMENT, MIB } from './declarations.js';
import { type Misspelt, misspeltAmong } from './misspelt.js';

/** How callers say who they are. */
export type AuthMode = (typeof AUTH_MODES)[number];

type Environment = z.infer<typeof ENVIRONMENT>;

/** Whose tokens are taken, and what is read in them. */
export interface JwtSettings {
  issuer: string;
  audience: string;
  jwksUrl: string;
  /** Null: the keys are those of `jwksUrl`. */
  jwksFile: string | null;
  algorithms: string[];
  tenantClaim: string;
  scopesClaim: string;
  /** Of tokens without that claim. */
  defaultScopes: string[];
}

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;

/** The files that hold the service's certificate, with those in between it and its authority, and its key. */
export interface TlsSettings {
  cert: string;
  key: string;
}

/** How traces are sent. */
export interface TracingSettings {
  protocol: Environment['OTEL_EXPORTER_OTLP_PROTOCOL'];
}

export const SETTING_NAMES: string[] = DECLARATIONS.map(({ name }) => name);

/** Apart, so that their fault is listed beside any other. */
const SHARED = ENVIRONMENT.pick({ WORKERS: true, DATABASE_POOL_MAX: true });
const PAIR = ENVIRONMENT.pick({ TLS_CERT: true, TLS_KEY: true });

/** The settings are wrong; `message` lists every fault. */
export class SettingsError extends Error {}

/** What the service was told, checked and with its defaults. `databaseUrl` is null when it brings its own Postgres. */
export class Settings {
  readonly port: number;
  readonly host: string;
  /** Empty: nobody is asked. */
  readonly authModes: readonly AuthMode[];
  /** Null: keys are kept in the database. */
  readonly apiKeysFile: string | null;
  /** Null: no tokens are taken. */
  readonly jwt: JwtSettings | null;
  readonly auditLog: Environment['AUDIT_LOG'];
  /** Null: plain HTTP. */
  readonly tls: TlsSettings | null;
  /** Whose pages may use the service. */
  readonly corsOrigins: string[];
  readonly databaseUrl: string | null;
  readonly databaseSchema: string;
  readonly databasePoolMax: number;
  readonly databasePrepared: boolean;
  readonly databaseSsl: { rejectUnauthorized: boolean; ca?: string; cert?: string; key?: string } | false;
  readonly statementTimeoutMs: number;
  readonly instances: number;
  readonly queueMax: number;
  readonly queueWaitMs: number;
  /** Null: all connections, and all but one once there are several tenants. */
  readonly tenantMaxConcurrent: number | null;
  readonly outageWaitMs: number;
  readonly dataDir: string;
  readonly migrateOnStart: boolean;
  readonly workers: number;
  readonly inflightBytes: number;
  /** Null: all of them, and half of them once there are several tenants. */
  readonly tenantInflightBytes: number | null;
  readonly headersTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly minBytesPerSecond: number;
  readonly keepAliveTimeoutMs: number;
  readonly maxConnections: number;
  readonly bodyLimitBytes: number;
  readonly blobLimitBytes: number;
  readonly documentLimitBytes: number;
  readonly documentNodesLimit: number;
  readonly rowsLimit: number;
  readonly listDefaultLimit: number;
  readonly answerLimitBytes: number;
  readonly tupleLimitBytes: number;
  readonly logLevel: string;
  readonly fastPath: boolean;
  readonly blobStorage: Environment['BLOB_STORAGE'];
  readonly deltaMemoryBytes: number;
  readonly swaggerEnabled: boolean;
  readonly shutdownDelayMs: number;
  /** Null: metrics are served beside the operations. */
  readonly metricsPort: number | null;
  /** Null: no traces. */
  readonly tracing: TracingSettings | null;

  /** The texts of the settings that were given. */
  readonly #given: Record<string, string | undefined>;

  /** @throws SettingsError */
  constructor(environment: Record<string, string | undefined>) {
    const given = Object.fromEntries(Object.entries(environment).filter(([, text]) => text));
    this.#given = given;
    const parsed = ENVIRONMENT.safeParse(given);
    const shared = SHARED.safeParse(given).data;
    const pair = PAIR.safeParse(given).data;
    const faults =
      parsed.error?.issues.map(({ path, message }) => {
        return `${path.join('.')}${message.startsWith(':') ? '' : ' '}${message}`;
      }) ?? [];
    const production = environment.NODE_ENV === 'production';
    const embedded = environment.DATABASE_URL === undefined || environment.DATABASE_URL === '';
    if (production && embedded && !['true', '1'].includes(environment.EMBEDDED_POSTGRES ?? '')) {
      faults.push(
        'DATABASE_URL is required in production; EMBEDDED_POSTGRES=true starts an embedded Postgres instead',
      );
    }
    const host = environment.HOST || (embedded ? '127.0.0.1' : '0.0.0.0');
    if (!environment.AUTH_MODE && (production || !embedded || !LOOPBACK.test(host))) {
      faults.push(
        'AUTH_MODE is required: keys, jwt or both (keys,jwt). none lets anyone who reaches the port read and delete every ' +
          'thread; it is the default only for an embedded database, on a loopback address, outside production',
      );
    }
    const { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL, JWT_JWKS_FILE } = environment;
    if (parsed.data?.AUTH_MODE?.includes('jwt')) {
      if (!JWT_ISSUER || !JWT_AUDIENCE) faults.push('jwt in AUTH_MODE needs JWT_ISSUER and JWT_AUDIENCE');
      if (!JWT_JWKS_URL === !JWT_JWKS_FILE) {
        faults.push('jwt in AUTH_MODE needs one of JWT_JWKS_URL and JWT_JWKS_FILE');
      }
    }
    if (environment.API_KEYS_FILE && parsed.data?.AUTH_MODE?.includes('keys') === false) {
      faults.push('API_KEYS_FILE needs keys in AUTH_MODE');
    }
    if (shared !== undefined && shared.WORKERS > shared.DATABASE_POOL_MAX) {
      faults.push('WORKERS must not exceed DATABASE_POOL_MAX, which they share');
    }
    faults.push(...faultsOfDatabaseSsl(environment));
    const unfit = pair === undefined ? null : faultOfPair(pair);
    if (unfit !== null) faults.push(unfit);
    if (parsed.data === undefined || faults.length > 0) throw new SettingsError(faults.join('; '));
    const env = parsed.data;
    this.port = env.PORT;
    this.host = host;
    this.authModes = env.AUTH_MODE ?? [];
    this.apiKeysFile = env.API_KEYS_FILE ?? null;
    this.jwt = this.authModes.includes('jwt') ? jwtOf(env) : null;
    this.auditLog = env.AUDIT_LOG;
    const { TLS_CERT: cert, TLS_KEY: key } = environment;
    this.tls = cert && key ? { cert, key } : null;
    this.corsOrigins = env.CORS_ORIGINS ?? [];
    this.databaseUrl = env.DATABASE_URL ?? null;
    this.databaseSchema = env.DATABASE_SCHEMA;
    this.databasePoolMax = env.DATABASE_POOL_MAX;
    this.databasePrepared = env.DATABASE_PREPARED;
    this.databaseSsl = env.DATABASE_SSL && {
      rejectUnauthorized: env.DATABASE_SSL_VERIFY,
      ...(env.DATABASE_SSL_CA !== undefined && { ca: env.DATABASE_SSL_CA }),
      ...(env.DATABASE_SSL_CERT !== undefined && { cert: env.DATABASE_SSL_CERT }),
      ...(env.DATABASE_SSL_KEY !== undefined && { key: env.DATABASE_SSL_KEY }),
    };
    this.statementTimeoutMs = env.STATEMENT_TIMEOUT_MS;
    this.instances = env.INSTANCES;
    this.queueMax = env.QUEUE_MAX;
    this.queueWaitMs = env.QUEUE_WAIT_MS;
    this.tenantMaxConcurrent = env.TENANT_MAX_CONCURRENT ?? null;
    this.outageWaitMs = env.OUTAGE_WAIT_MS;
    this.dataDir = env.DATA_DIR;
    this.migrateOnStart = env.MIGRATE_ON_START;
    this.workers = env.WORKERS;
    this.inflightBytes = env.INFLIGHT_BYTES;
    this.tenantInflightBytes = env.TENANT_INFLIGHT_BYTES ?? null;
    this.headersTimeoutMs = env.HEADERS_TIMEOUT_MS;
    this.bodyTimeoutMs = env.BODY_TIMEOUT_MS;
    this.stallTimeoutMs = env.STALL_TIMEOUT_MS;
    this.minBytesPerSecond = env.MIN_BYTES_PER_SECOND;
    this.keepAliveTimeoutMs = env.KEEP_ALIVE_TIMEOUT_MS;
    this.maxConnections = env.MAX_CONNECTIONS;
    this.bodyLimitBytes = env.BODY_LIMIT_BYTES;
    this.blobLimitBytes = env.BLOB_LIMIT_BYTES;
    this.documentLimitBytes = env.DOCUMENT_LIMIT_BYTES;
    this.documentNodesLimit = env.DOCUMENT_NODES_LIMIT;
    this.rowsLimit = env.ROWS_LIMIT;
    this.listDefaultLimit = env.LIST_DEFAULT_LIMIT;
    this.answerLimitBytes = env.ANSWER_LIMIT_BYTES ?? Math.min(16 * MIB, Math.ceil(env.INFLIGHT_BYTES / 16));
    this.tupleLimitBytes = env.TUPLE_LIMIT_BYTES;
    this.logLevel = env.LOG_LEVEL;
    this.fastPath = env.FAST_PATH;
    this.blobStorage = env.BLOB_STORAGE;
    this.deltaMemoryBytes = env.DELTA_MEMORY_BYTES;
    this.swaggerEnabled = env.SWAGGER_ENABLED;
    this.shutdownDelayMs = env.SHUTDOWN_DELAY_MS;
    this.metricsPort = env.METRICS_PORT ?? null;
    this.tracing = tracingOf(env);
  }

  /** What is in effect, by the names and in the words of the environment, for a log: no password, no key. */
  masked(): Record<string, string | null> {
    const depending = {
      HOST: this.host,
      AUTH_MODE: this.authModes.join(',') || 'none',
      ANSWER_LIMIT_BYTES: String(this.answerLimitBytes),
    };
    const inEffect: Record<string, string | undefined> = { ...depending, ...this.#given };
    return Object.fromEntries(
      DECLARATIONS.map(({ name, default: fallback, mask }) => {
        const text = inEffect[name] ?? fallback;
        return [name, text === null ? null : mask(text)];
      }),
    );
  }
}

function jwtOf(env: Environment): JwtSettings {
  return {
    issuer: env.JWT_ISSUER ?? '',
    audience: env.JWT_AUDIENCE ?? '',
    jwksUrl: env.JWT_JWKS_URL ?? '',
    jwksFile: env.JWT_JWKS_FILE ?? null,
    algorithms: env.JWT_ALGORITHMS,
    tenantClaim: env.JWT_TENANT_CLAIM,
    scopesClaim: env.JWT_SCOPES_CLAIM,
    defaultScopes: env.JWT_DEFAULT_SCOPES,
  };
}

/** What would leave connections less safe than it reads. */
function faultsOfDatabaseSsl(environment: Record<string, string | undefined>): string[] {
  const { DATABASE_SSL: ssl = '', DATABASE_URL: url = '' } = environment;
  if (ssl !== 'true' && ssl !== '1') {
    return ['DATABASE_SSL_CA', 'DATABASE_SSL_CERT', 'DATABASE_SSL_KEY']
      .filter((name) => environment[name])
      .map((name) => `${name} has no effect without DATABASE_SSL=true`);
  }
  // pg takes these in place of the settings.
  const given = URL.canParse(url) ? [...new URL(url).searchParams.keys()] : [];
  const ofSsl = given.filter((name) => name.startsWith('ssl') || name === 'uselibpqcompat');
  return ofSsl.length === 0
    ? []
    : [`DATABASE_URL must not have ${ofSsl.join(', ')} beside DATABASE_SSL, which says how to encrypt`];
}

function faultOfPair({ TLS_CERT: cert, TLS_KEY: key }: z.infer<typeof PAIR>): string | null {
  if (cert === undefined && key === undefined) return null;
  if (cert === undefined || key === undefined) return 'TLS_CERT and TLS_KEY must be set together';
  try {
    new X509Certificate(cert);
    createSecureContext({ cert, key });
    return null;
  } catch (error) {
    return `TLS_CERT and TLS_KEY are not a pair: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function tracingOf(env: Environment): TracingSettings | null {
  const endpoint = env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? env.OTEL_EXPORTER_OTLP_ENDPOINT;
  const isOff = env.OTEL_SDK_DISABLED?.toLowerCase() === 'true' || env.OTEL_TRACES_EXPORTER === 'none';
  if (isOff || endpoint === undefined) return null;
  const { OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: own, OTEL_EXPORTER_OTLP_PROTOCOL: shared } = env;
  return { protocol: own ?? shared };
}

/**
 * Reads `.env` in the working directory, when there is one, then the environment, which wins. A command that serves nobody
 * need not be told who may be served. @throws SettingsError
 */
export function settingsFromEnvironment({ serves = true } = {}): Settings {
  try {
    process.loadEnvFile();
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
  return new Settings(serves ? process.env : { ...process.env, AUTH_MODE: process.env.AUTH_MODE || 'none' });
}

/** The names in the environment that may be settings with a typing error. Call it after `settingsFromEnvironment`. */
export function misspeltInEnvironment(): Misspelt[] {
  return misspeltAmong(Object.keys(process.env), SETTING_NAMES);
}
