import { X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { z } from 'zod';
import { textOfFileSync } from './regular-file.js';

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
const MIB = 1024 * 1024;

const anInteger = (min: number, max: number) =>
  z
    .string()
    .refine(
      (text) => /^-?\d+$/.test(text) && Number(text) >= min && Number(text) <= max,
      `must be an integer from ${min} to ${max}`,
    )
    .transform(Number);

const integer = (min: number, max: number, fallback: number) => anInteger(min, max).default(fallback);

const boolean = (fallback: boolean) =>
  z
    .enum(['true', 'false', '1', '0'], { error: 'must be true or false' })
    .transform((text) => text === 'true' || text === '1')
    .default(fallback);

const file = z.string().transform((path, context) => {
  try {
    return textOfFileSync(path);
  } catch (error) {
    context.addIssue(`cannot be read: ${error instanceof Error ? error.message : String(error)}`);
    return z.NEVER;
  }
});

/** No fault quotes the URL, which holds a password. */
const postgresUrl = z.string().superRefine((text, context) => {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !['postgres:', 'postgresql:'].includes(url.protocol)) {
    context.addIssue('must be a URL such as postgresql://user:password@host:5432/database');
    return;
  }
  // Such a character ended the password, whose rest would be taken for a database and be shown as one.
  if (url.hash !== '' || /@/.test(url.pathname + url.search)) {
    context.addIssue(': in a password "/", "?" and "#" are written %2F, %3F and %23');
  }
  const parts = { user: url.username, password: url.password, host: url.hostname, database: url.pathname };
  for (const [name, part] of Object.entries(parts)) {
    const decoded = decodedOrNull(part);
    if (decoded === null) context.addIssue(`: ${name} contains a bare "%"; write %25`);
    else if (decoded.includes('\0')) context.addIssue(`: ${name} contains NUL, which Postgres does not take`);
  }
});

function decodedOrNull(part: string): string | null {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

const origins = z.string().transform((text, context) => {
  const listed = text.split(',').map((origin) => origin.trim());
  for (const origin of listed) {
    if (origin.includes('*') || !URL.canParse(origin) || new URL(origin).origin !== origin)
      context.addIssue(`must list origins such as https://app.example.com, "${origin}" is none`);
  }
  return listed;
});

const otlpProtocol = z.enum(['http/protobuf', 'http/json'], {
  error: 'must be http/protobuf or http/json',
});

const AUTH_MODES = ['keys', 'jwt'] as const;
/** How callers say who they are. */
export type AuthMode = (typeof AUTH_MODES)[number];

/** Where is written who deleted what. */
const AUDIT_LOGS = ['log', 'table', 'off'] as const;

const authModes = z
  .string()
  .transform((text) => text.split(',').map((mode) => mode.trim()))
  .refine(
    (modes) => (modes.length === 1 && modes[0] === 'none') || modes.every(isAuthMode),
    `must be none, or a list of ${AUTH_MODES.join(', ')}`,
  )
  .transform((modes) => modes.filter(isAuthMode));

function isAuthMode(mode: string): mode is AuthMode {
  return (AUTH_MODES as readonly string[]).includes(mode);
}

/** Of the two keys of a pair one alone makes tokens; of a shared secret whoever checks them could make them. */
const JWT_ALGORITHMS = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  ...['ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'],
];

const listOf = (words: readonly string[]) =>
  z
    .string()
    .transform((text) => text.split(',').map((word) => word.trim()))
    .refine((given) => given.every((word) => words.includes(word)), `must be a list of ${words.join(', ')}`);

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
  protocol: z.infer<typeof otlpProtocol>;
}

/** Every environment variable of the service; the README's table says the same in words. */
const ENVIRONMENT = z.object({
  NODE_ENV: z.string().optional(),
  PORT: integer(0, 65_535, 5003),
  HOST: z.string().optional(),
  AUTH_MODE: authModes.optional(),
  API_KEYS_FILE: z.string().optional(),
  JWT_ISSUER: z.string().optional(),
  JWT_AUDIENCE: z.string().optional(),
  JWT_JWKS_URL: z.url({ protocol: /^https?$/, error: 'must be a URL of http or https' }).optional(),
  JWT_JWKS_FILE: z.string().optional(),
  JWT_ALGORITHMS: listOf(JWT_ALGORITHMS).default(['RS256', 'PS256', 'ES256', 'EdDSA']),
  JWT_TENANT_CLAIM: z.string().default('tenant'),
  JWT_SCOPES_CLAIM: z.string().default('scope'),
  // Not admin: that is to be said in a token.
  JWT_DEFAULT_SCOPES: listOf(['read', 'write', 'delete']).default([]),
  AUDIT_LOG: z.enum(AUDIT_LOGS, { error: `must be one of ${AUDIT_LOGS.join(', ')}` }).default('log'),
  TLS_CERT: file.optional(),
  TLS_KEY: file.optional(),
  CORS_ORIGINS: origins.optional(),
  DATABASE_URL: postgresUrl.optional(),
  DATABASE_SCHEMA: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_]{0,62}$/, 'must be a plain identifier of at most 63 characters')
    .default('public'),
  DATABASE_POOL_MAX: integer(1, 1000, 10),
  DATABASE_PREPARED: boolean(true),
  DATABASE_SSL: boolean(false),
  DATABASE_SSL_VERIFY: boolean(true),
  DATABASE_SSL_CA: file.optional(),
  DATABASE_SSL_CERT: file.optional(),
  DATABASE_SSL_KEY: file.optional(),
  STATEMENT_TIMEOUT_MS: integer(100, 3_600_000, 60_000),
  INSTANCES: integer(1, 100_000, 1),
  QUEUE_MAX: integer(0, 1_000_000, 1000),
  QUEUE_WAIT_MS: integer(100, 600_000, 10_000),
  TENANT_MAX_CONCURRENT: anInteger(1, 1000).optional(),
  OUTAGE_WAIT_MS: integer(0, 600_000, 30_000),
  EMBEDDED_POSTGRES: boolean(false),
  DATA_DIR: z.string().default('.data'),
  MIGRATE_ON_START: boolean(true),
  WORKERS: integer(1, 1000, 1),
  INFLIGHT_BYTES: integer(1024, 1024 * 1024 * MIB, 256 * MIB),
  TENANT_INFLIGHT_BYTES: anInteger(1024, 1024 * 1024 * MIB).optional(),
  HEADERS_TIMEOUT_MS: integer(100, 3_600_000, 15_000),
  BODY_TIMEOUT_MS: integer(100, 3_600_000, 300_000),
  STALL_TIMEOUT_MS: integer(100, 3_600_000, 30_000),
  MIN_BYTES_PER_SECOND: integer(0, 1024 * MIB, 32 * 1024),
  // Above the idle time of the usual balancers, of which Google's is the longest: 600 s.
  KEEP_ALIVE_TIMEOUT_MS: integer(1000, 86_400_000, 620_000),
  MAX_CONNECTIONS: integer(1, 1_000_000, 16_384),
  BODY_LIMIT_BYTES: integer(1024, 512 * MIB, 64 * MIB),
  BLOB_LIMIT_BYTES: integer(0, 512 * MIB, 32 * MIB),
  // jsonb takes up to 12 bytes for a value and its text beside them, and has 2^28 bytes: these two together stay below.
  DOCUMENT_LIMIT_BYTES: integer(1024, 128 * MIB, 16 * MIB),
  DOCUMENT_NODES_LIMIT: integer(100, 10_000_000, 200_000),
  // A statement binds a fixed number of arrays, so this is about time and memory, not about parameters.
  ROWS_LIMIT: integer(1, 1_000_000, 10_000),
  LIST_DEFAULT_LIMIT: integer(1, 1000, 1000),
  ANSWER_LIMIT_BYTES: anInteger(1024, 256 * MIB).optional(),
  // No text of V8 has more than 512 MiB, and Base64 makes four bytes of three.
  TUPLE_LIMIT_BYTES: integer(1024, 384 * MIB, 256 * MIB),
  LOG_LEVEL: z.enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` }).default('info'),
  FAST_PATH: boolean(true),
  SWAGGER_ENABLED: boolean(true),
  SHUTDOWN_DELAY_MS: integer(0, 600_000, 500),
  METRICS_PORT: anInteger(0, 65_535).optional(),
  // OpenTelemetry's own names; what else it has by that prefix, its SDK reads.
  OTEL_SDK_DISABLED: z.string().optional(),
  OTEL_TRACES_EXPORTER: z.enum(['otlp', 'none'], { error: 'must be otlp or none' }).default('otlp'),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url().optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: z.url().optional(),
  OTEL_EXPORTER_OTLP_PROTOCOL: otlpProtocol.optional(),
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: otlpProtocol.optional(),
});

export const SETTING_NAMES: string[] = Object.keys(ENVIRONMENT.shape);

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
  readonly auditLog: (typeof AUDIT_LOGS)[number];
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
  readonly swaggerEnabled: boolean;
  readonly shutdownDelayMs: number;
  /** Null: metrics are served beside the operations. */
  readonly metricsPort: number | null;
  /** Null: no traces. */
  readonly tracing: TracingSettings | null;

  /** @throws SettingsError */
  constructor(environment: Record<string, string | undefined>) {
    const given = Object.entries(environment).filter(([, value]) => value !== undefined && value !== '');
    const parsed = ENVIRONMENT.safeParse(Object.fromEntries(given));
    const shared = SHARED.safeParse(Object.fromEntries(given)).data;
    const pair = PAIR.safeParse(Object.fromEntries(given)).data;
    const faults =
      parsed.error?.issues.map(({ path, message }) => {
        return `${path.join('.')}${message.startsWith(':') ? '' : ' '}${message}`;
      }) ?? [];
    const production = environment.NODE_ENV === 'production';
    const embedded = environment.DATABASE_URL === undefined || environment.DATABASE_URL === '';
    if (production && embedded && !['true', '1'].includes(environment.EMBEDDED_POSTGRES ?? '')) {
      faults.push(
        'DATABASE_URL is required in production; EMBEDDED_POSTGRES=true starts an own Postgres instead',
      );
    }
    const host = environment.HOST || (embedded ? '127.0.0.1' : '0.0.0.0');
    if (!environment.AUTH_MODE && (production || !embedded || !LOOPBACK.test(host))) {
      faults.push(
        'AUTH_MODE is required: keys, jwt or both (keys,jwt) say who may read and delete what; none lets everybody who ' +
          'reaches the port, and is the default only for an embedded database, on a loopback address, not in production',
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
    this.swaggerEnabled = env.SWAGGER_ENABLED;
    this.shutdownDelayMs = env.SHUTDOWN_DELAY_MS;
    this.metricsPort = env.METRICS_PORT ?? null;
    this.tracing = tracingOf(env);
  }

  /** The settings for a log: no password, no key. */
  masked(): object {
    return {
      ...Object.fromEntries(Object.entries(this)),
      databaseUrl: this.databaseUrl === null ? null : maskUrl(this.databaseUrl),
      databaseSsl: this.databaseSsl && { ...this.databaseSsl, key: this.databaseSsl.key && '***' },
    };
  }
}

function jwtOf(env: z.infer<typeof ENVIRONMENT>): JwtSettings {
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
    return `TLS_CERT and TLS_KEY are no pair: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function tracingOf(env: z.infer<typeof ENVIRONMENT>): TracingSettings | null {
  const endpoint = env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? env.OTEL_EXPORTER_OTLP_ENDPOINT;
  const isOff = env.OTEL_SDK_DISABLED?.toLowerCase() === 'true' || env.OTEL_TRACES_EXPORTER === 'none';
  if (isOff || endpoint === undefined) return null;
  const { OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: own, OTEL_EXPORTER_OTLP_PROTOCOL: shared } = env;
  return { protocol: own ?? shared ?? 'http/protobuf' };
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

function maskUrl(text: string): string {
  const url = new URL(text);
  if (url.password !== '') url.password = '***';
  for (const name of ['password', 'sslpassword'])
    if (url.searchParams.has(name)) url.searchParams.set(name, '***');
  return url.href;
}
