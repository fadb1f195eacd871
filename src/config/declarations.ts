import { z } from 'zod';
import {
  boolean,
  bytes,
  httpUrl,
  identifier,
  integer,
  type Kind,
  listOf,
  milliseconds,
  oneOf,
  origins,
  path,
  pem,
  postgresUrl,
  text,
  url,
} from './kinds.js';

export const MIB = 1024 * 1024;

/** A setting in words. Everything that is printed about settings is made from these. */
export interface Declaration {
  name: string;
  /** The heading that it is listed under. */
  group: string;
  /** Null: the range says it. */
  unit: string | null;
  /** Null: the unit says it. */
  range: string | null;
  /** As it is written in the environment. Null: there is none, or it depends. */
  default: string | null;
  /** What holds without the setting when `default` is null, in Markdown. Null: nothing. */
  otherwise: string | null;
  /** One sentence, in Markdown. */
  meaning: string;
  /** More sentences, for the reference alone. */
  details: string | null;
  /** What a log may show of its text. */
  mask: (text: string) => string;
}

const declared = new Map<z.ZodType, Omit<Declaration, 'name' | 'group'>>();
const groups = new Map<z.ZodType, string>();

interface Words {
  meaning: string;
  details?: string;
}

/** A setting that has a default. */
function setting<S extends z.ZodType>(
  { schema, write, unit, range, mask }: Kind<S>,
  { default: value, ...words }: Words & { default: z.core.util.NoUndefined<z.output<S>> },
): z.ZodDefault<S> {
  const made = z._default(schema, value);
  declared.set(made, { unit, range, mask, default: write(value), otherwise: null, details: null, ...words });
  return made;
}

/** A setting that may be absent. `otherwise` says what holds then. */
function optional<S extends z.ZodType>(
  { schema, unit, range, mask }: Kind<S>,
  words: Words & { otherwise?: string },
): z.ZodOptional<S> {
  const made = z.optional(schema);
  declared.set(made, { unit, range, mask, default: null, otherwise: null, details: null, ...words });
  return made;
}

function group<G extends Record<string, z.ZodType>>(name: string, settings: G): G {
  for (const schema of Object.values(settings)) groups.set(schema, name);
  return settings;
}

/** How callers say who they are. */
export const AUTH_MODES = ['keys', 'jwt'] as const;

/** Only asymmetric algorithms: whoever can check a shared secret can also make tokens with it. */
const JWT_ALGORITHMS = [
  ...(['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'] as const),
  ...(['ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'] as const),
];

/** Every environment variable of the service. */
export const ENVIRONMENT = z.object({
  ...group('Network', {
    PORT: setting(integer(0, 65_535), { default: 5003, meaning: 'Port to listen on; 0 takes a free one.' }),
    HOST: optional(text('address'), {
      otherwise: '`127.0.0.1` without `DATABASE_URL`, else `0.0.0.0`',
      meaning: 'Address to listen on.',
    }),
    TLS_CERT: optional(pem(), {
      meaning: 'Certificate of the service; with `TLS_KEY` it serves HTTPS.',
      details:
        'The file also holds the intermediate certificates. The service loads a changed file without a restart. See ' +
        '[TLS](../how-to/tls.md).',
    }),
    TLS_KEY: optional(pem(), { meaning: 'Private key of `TLS_CERT`.' }),
    CORS_ORIGINS: optional(origins(), {
      meaning: 'Origins whose web pages may call the service.',
      details: 'Such as `https://console.example.com,http://localhost:3000`. There is no `*`.',
    }),
    MAX_CONNECTIONS: setting(integer(1, 1_000_000, 'connections'), {
      default: 16_384,
      meaning: 'Most client connections of a worker.',
      details: 'Over it, the service closes the connections that have been idle longest.',
    }),
    // Above the idle time of the usual balancers, of which Google's is the longest: 600 s.
    KEEP_ALIVE_TIMEOUT_MS: setting(milliseconds(1000, 86_400_000), {
      default: 620_000,
      meaning: 'How long a connection may be idle.',
      details:
        'Keep it above the idle timeout of your load balancer. Otherwise the balancer may use a connection while the ' +
        'service closes it, and answers 502.',
    }),
    HEADERS_TIMEOUT_MS: setting(milliseconds(100, 3_600_000), {
      default: 15_000,
      meaning: 'How long the headers of a request may take to arrive.',
      details: 'Also limits a TLS handshake.',
    }),
    BODY_TIMEOUT_MS: setting(milliseconds(100, 3_600_000), {
      default: 300_000,
      meaning: 'How long a whole request may take to arrive.',
      details: 'Its wait for memory counts.',
    }),
    STALL_TIMEOUT_MS: setting(milliseconds(100, 3_600_000), {
      default: 30_000,
      meaning: 'How long a body or a response may stall.',
      details: 'One of more than 64 KiB stalls when it is slower than `MIN_BYTES_PER_SECOND`.',
    }),
    MIN_BYTES_PER_SECOND: setting(integer(0, 1024 * MIB, 'bytes per second'), {
      default: 32 * 1024,
      meaning: 'Lowest speed of a body or a response over 64 KiB; 0 allows any.',
    }),
  }),

  ...group('Authentication and audit', {
    AUTH_MODE: optional(listOf(AUTH_MODES, 'none'), {
      otherwise: '`none` with an embedded database on loopback, else required',
      meaning: 'How callers authenticate; `none` admits anyone.',
      details:
        'With `NODE_ENV=production` it is always required. See [keys](../how-to/keys.md) and ' +
        '[tokens of Kubernetes](../how-to/jwt-kubernetes.md).',
    }),
    API_KEYS_FILE: optional(path('JSON file'), {
      meaning: 'File with the keys, instead of the database.',
      details: 'See [keys](../how-to/keys.md).',
    }),
    JWT_ISSUER: optional(text(), { meaning: 'Issuer of the tokens (claim `iss`); required with `jwt`.' }),
    JWT_AUDIENCE: optional(text(), { meaning: 'Audience of the tokens (claim `aud`); required with `jwt`.' }),
    JWT_JWKS_URL: optional(httpUrl(), {
      meaning: "Where to fetch the issuer's public keys.",
      details: '`jwt` requires this setting or `JWT_JWKS_FILE`.',
    }),
    JWT_JWKS_FILE: optional(path('JSON file'), {
      meaning: "The issuer's public keys, instead of `JWT_JWKS_URL`.",
    }),
    JWT_ALGORITHMS: setting(listOf(JWT_ALGORITHMS), {
      default: ['RS256', 'PS256', 'ES256', 'EdDSA'],
      meaning: 'Signature algorithms that are accepted.',
    }),
    JWT_TENANT_CLAIM: setting(text('name or JSON pointer'), {
      default: 'tenant',
      meaning: 'Claim that holds the tenant.',
      details: 'A JSON pointer begins with a slash, such as `/kubernetes.io/namespace`.',
    }),
    JWT_SCOPES_CLAIM: setting(text('name or JSON pointer'), {
      default: 'scope',
      meaning: 'Claim that holds the scopes.',
      details: 'The claim is an array, or a text with spaces between the scopes.',
    }),
    // Not admin: a token has to say that.
    JWT_DEFAULT_SCOPES: setting(listOf(['read', 'write', 'delete']), {
      default: [],
      meaning: 'Scopes of tokens that lack that claim.',
    }),
    AUDIT_LOG: setting(oneOf(['log', 'table', 'off']), {
      default: 'log',
      meaning: 'Where to record deletes, copies, changes of keys and refusals.',
      details: '`log` is the log of the service, `table` the table `audit_log`.',
    }),
  }),

  ...group('Database', {
    DATABASE_URL: optional(postgresUrl(), {
      otherwise: 'an embedded Postgres',
      meaning: 'Postgres 14 or later, with encoding UTF8.',
      details:
        'Such as `postgresql://user:password@host:5432/database`. Required with `NODE_ENV=production`.',
    }),
    DATABASE_SCHEMA: setting(identifier(), {
      default: 'public',
      meaning: 'Schema of the tables; created when it is missing.',
    }),
    DATABASE_POOL_MAX: setting(integer(1, 1000, 'connections'), {
      default: 10,
      meaning: 'Size of the connection pool of an instance.',
    }),
    DATABASE_PREPARED: setting(boolean(), {
      default: true,
      meaning: 'Uses prepared statements.',
      details:
        '`false` is for a pooler that does not keep them, and also turns the merging of statements off. See ' +
        '[PgBouncer](../how-to/pgbouncer.md).',
    }),
    DATABASE_SSL: setting(boolean(), {
      default: false,
      meaning: 'Encrypts the connections to Postgres.',
      details: 'See [TLS](../how-to/tls.md).',
    }),
    DATABASE_SSL_VERIFY: setting(boolean(), {
      default: true,
      meaning: "Refuses a server whose certificate is not valid for the URL's host.",
    }),
    DATABASE_SSL_CA: optional(pem(), {
      otherwise: "Node's own list of authorities",
      meaning: 'Authority that issued the certificate of the server.',
    }),
    DATABASE_SSL_CERT: optional(pem(), { meaning: 'Client certificate.' }),
    DATABASE_SSL_KEY: optional(pem(), { meaning: 'Private key of `DATABASE_SSL_CERT`.' }),
    STATEMENT_TIMEOUT_MS: setting(milliseconds(100, 3_600_000), {
      default: 60_000,
      meaning: 'Postgres cancels a statement that takes longer.',
      details: 'A request also waits no longer than this for locks.',
    }),
    INSTANCES: setting(integer(1, 100_000, 'instances'), {
      default: 1,
      meaning: 'Most instances at once; checked against `max_connections`.',
      details: 'Count those that a rolling update adds.',
    }),
    MIGRATE_ON_START: setting(boolean(), {
      default: true,
      meaning: 'Applies missing migrations before the service listens.',
      details: 'See [upgrade](../how-to/upgrade.md).',
    }),
    EMBEDDED_POSTGRES: setting(boolean(), {
      default: false,
      meaning: 'Allows the embedded Postgres with `NODE_ENV=production`.',
    }),
    DATA_DIR: setting(text('path of a directory'), {
      default: '.data',
      meaning: 'Data and log of the embedded Postgres.',
    }),
  }),

  ...group('Queue and memory', {
    QUEUE_MAX: setting(integer(0, 1_000_000, 'requests'), {
      default: 1000,
      meaning: 'Requests that may wait for a connection; one more gets 503.',
      details: 'As many may wait for memory. Counted by each worker.',
    }),
    QUEUE_WAIT_MS: setting(milliseconds(100, 600_000), {
      default: 10_000,
      meaning: 'How long a request waits for a connection or for memory.',
      details: 'Then it gets 503.',
    }),
    OUTAGE_WAIT_MS: setting(milliseconds(0, 600_000), {
      default: 30_000,
      meaning: 'How long a request waits while the database is unavailable.',
      details: 'Then it gets 503. See [reliability](../explain/reliability.md).',
    }),
    INFLIGHT_BYTES: setting(bytes(1024, 1024 * 1024 * MIB), {
      default: 256 * MIB,
      meaning: 'Bytes of request bodies in flight in a worker; others wait.',
      details: 'Responses have as many bytes of their own.',
    }),
    TENANT_MAX_CONCURRENT: optional(integer(1, 1000, 'connections'), {
      otherwise: 'all but one, once there are several tenants',
      meaning: 'Connections that one tenant may use at once.',
      details: 'See [tenancy and shares](../explain/tenancy-and-shares.md).',
    }),
    TENANT_INFLIGHT_BYTES: optional(bytes(1024, 1024 * 1024 * MIB), {
      otherwise: 'half of `INFLIGHT_BYTES`; all of it with `AUTH_MODE=none`',
      meaning: 'Part of `INFLIGHT_BYTES` that one tenant may use.',
      details: 'See [tenancy and shares](../explain/tenancy-and-shares.md).',
    }),
  }),

  ...group('Limits of a request', {
    BODY_LIMIT_BYTES: setting(bytes(1024, 512 * MIB), {
      default: 64 * MIB,
      meaning: 'Largest body of a request, decompressed.',
    }),
    BLOB_LIMIT_BYTES: setting(bytes(0, 512 * MIB), { default: 32 * MIB, meaning: 'Largest blob, decoded.' }),
    // jsonb takes up to 12 bytes for a value and its text beside them, and has 2^28 bytes: these two together stay below.
    DOCUMENT_LIMIT_BYTES: setting(bytes(1024, 128 * MIB), {
      default: 16 * MIB,
      meaning: 'Largest `checkpoint` and `metadata` together, or `filter_metadata`.',
      details: 'See [limits](limits.md).',
    }),
    DOCUMENT_NODES_LIMIT: setting(integer(100, 10_000_000, 'values'), {
      default: 200_000,
      meaning: 'Most JSON values in these documents.',
      details: 'See [limits](limits.md).',
    }),
    // A statement binds a fixed number of arrays, so this is about time and memory, not about parameters.
    ROWS_LIMIT: setting(integer(1, 1_000_000, 'rows'), {
      default: 10_000,
      meaning: 'Most blobs, writes, ids or `channel_versions` in a request.',
    }),
    LIST_DEFAULT_LIMIT: setting(integer(1, 1000, 'checkpoints'), {
      default: 1000,
      meaning: 'Checkpoints in an answer of `list` without `limit`.',
    }),
    ANSWER_LIMIT_BYTES: optional(bytes(1024, 256 * MIB), {
      otherwise: '`INFLIGHT_BYTES` / 16, at most 16 MiB',
      meaning: 'Size at which a page of `list` ends.',
    }),
    // No text of V8 has more than 512 MiB, and Base64 makes four bytes of three.
    TUPLE_LIMIT_BYTES: setting(bytes(1024, 384 * MIB), {
      default: 256 * MIB,
      meaning: 'Largest checkpoint that may be read, with its blobs and writes.',
      details: 'A larger one gets 413.',
    }),
  }),

  ...group('Process and log', {
    NODE_ENV: optional(text(), {
      meaning: '`production` requires `DATABASE_URL` or `EMBEDDED_POSTGRES=true`.',
      details: 'It also requires `AUTH_MODE`.',
    }),
    WORKERS: setting(integer(1, 1000, 'processes'), {
      default: 1,
      meaning: 'Processes that share `PORT` and `DATABASE_POOL_MAX`.',
    }),
    SHUTDOWN_DELAY_MS: setting(milliseconds(0, 600_000), {
      default: 500,
      meaning: 'How long the service accepts requests after SIGTERM.',
      details: 'Set it to the time that your load balancer needs to notice.',
    }),
    LOG_LEVEL: setting(oneOf(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']), {
      default: 'info',
      meaning: 'Lowest severity that is logged.',
    }),
    SWAGGER_ENABLED: setting(boolean(), { default: true, meaning: 'Serves `/docs` and `/openapi.json`.' }),
    BLOB_STORAGE: setting(oneOf(['whole', 'delta']), {
      default: 'whole',
      meaning: '`delta` stores of a value what is new to the version before.',
      details:
        'Every instance reads both. Set it when no instance of a release without this setting is left. See ' +
        '[Storage](../explain/storage.md#deltas).',
    }),
    DELTA_MEMORY_BYTES: setting(bytes(0, 1024 * 1024 * MIB), {
      default: 64 * MIB,
      meaning: 'Memory of a worker for values stored last, with `BLOB_STORAGE=delta`.',
      details: 'A value that is not there any more is read before the next version is stored.',
    }),
    FAST_PATH: setting(boolean(), {
      default: true,
      meaning: '`false` turns the fast path off, to compare.',
      details:
        'All requests then take the way of Express and class-validator, each with a statement of its own.',
    }),
  }),

  ...group('Metrics and traces', {
    METRICS_PORT: optional(integer(0, 65_535), {
      otherwise: '`PORT`',
      meaning: 'Port that serves `/metrics`; 0 takes a free one.',
      details: 'See [metrics and alerts](metrics-and-alerts.md).',
    }),
    OTEL_EXPORTER_OTLP_ENDPOINT: optional(url(), {
      meaning: 'Collector that receives traces.',
      details: 'Such as `http://collector:4318`. Without an endpoint there are no traces.',
    }),
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: optional(url(), {
      otherwise: '`OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces`',
      meaning: 'URL for traces, with its path; overrides the general setting.',
    }),
    OTEL_EXPORTER_OTLP_PROTOCOL: setting(oneOf(['http/protobuf', 'http/json']), {
      default: 'http/protobuf',
      meaning: 'Encoding of traces.',
    }),
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: optional(oneOf(['http/protobuf', 'http/json']), {
      otherwise: '`OTEL_EXPORTER_OTLP_PROTOCOL`',
      meaning: 'Encoding of traces; overrides the general setting.',
    }),
    OTEL_TRACES_EXPORTER: setting(oneOf(['otlp', 'none']), {
      default: 'otlp',
      meaning: '`none` turns traces off.',
    }),
    OTEL_SDK_DISABLED: optional(text('boolean'), {
      otherwise: '`false`',
      meaning: '`true` turns traces off.',
    }),
  }),
});

export const DECLARATIONS: readonly Declaration[] = Object.entries(ENVIRONMENT.shape).map(
  ([name, schema]) => {
    const words = declared.get(schema);
    const of = groups.get(schema);
    if (words === undefined || of === undefined) throw new Error(`${name} is not declared`);
    return { name, group: of, ...words };
  },
);
