import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SETTING_NAMES, Settings } from './env.js';

describe('Settings', () => {
  it('has defaults for everything', () => {
    expect(new Settings({})).toMatchObject({
      port: 5003,
      host: '127.0.0.1',
      databaseUrl: null,
      databaseSchema: 'public',
      databasePoolMax: 10,
      bodyLimitBytes: 67_108_864,
      blobLimitBytes: 33_554_432,
      rowsLimit: 10_000,
      listDefaultLimit: 1000,
      migrateOnStart: true,
      workers: 1,
      swaggerEnabled: true,
    });
  });

  it('listens to everybody when the database is not its own', () => {
    expect(new Settings({ AUTH_MODE: 'none', DATABASE_URL: 'postgresql://h/d' }).host).toBe('0.0.0.0');
    expect(new Settings({ AUTH_MODE: 'none', DATABASE_URL: 'postgresql://h/d', HOST: '::1' }).host).toBe(
      '::1',
    );
  });

  it('takes an empty variable for an absent one', () => {
    expect(new Settings({ PORT: '', DATABASE_URL: '' })).toMatchObject({ port: 5003, databaseUrl: null });
  });

  it('reports every fault at once, and never turns one into a default', () => {
    const wrong = {
      PORT: '99999',
      DATABASE_POOL_MAX: 'x',
      DATABASE_URL: 'mysql://h',
      LOG_LEVEL: 'loud',
      ROWS_LIMIT: '1.5',
    };
    expect(() => new Settings(wrong)).toThrow(
      /PORT must be an integer from 0 to 65535; .*DATABASE_URL must be a URL.*; DATABASE_POOL_MAX must be.*; ROWS_LIMIT must be.*; LOG_LEVEL must be one of/,
    );
  });

  describe('a DATABASE_URL with a fault', () => {
    const SECRET = 'hunter2';
    it.each([
      { url: `postgresql://u:${SECRET}%@h/d`, says: 'DATABASE_URL: password contains a bare "%"; write %25' },
      {
        url: `postgresql://u:%zz${SECRET}@h/d`,
        says: 'DATABASE_URL: password contains a bare "%"; write %25',
      },
      {
        url: `postgresql://u:${SECRET}%e4@h/d`,
        says: 'DATABASE_URL: password contains a bare "%"; write %25',
      },
      { url: `postgresql://u%:${SECRET}@h/d`, says: 'DATABASE_URL: user contains a bare "%"; write %25' },
      { url: `postgresql://u:${SECRET}@h/d%`, says: 'DATABASE_URL: database contains a bare "%"; write %25' },
      { url: `postgresql://u:${SECRET}%00@h/d`, says: 'DATABASE_URL: password contains NUL' },
      {
        url: `postgresql://u:1/${SECRET}@h/d`,
        says: 'DATABASE_URL: in a password "/", "?" and "#" are written',
      },
      {
        url: `postgresql://u:1?${SECRET}@h/d`,
        says: 'DATABASE_URL: in a password "/", "?" and "#" are written',
      },
      {
        url: `postgresql://u:1#${SECRET}@h/d`,
        says: 'DATABASE_URL: in a password "/", "?" and "#" are written',
      },
      { url: `postgresql://u:${SECRET}#1@h/d`, says: 'DATABASE_URL must be a URL' },
      { url: `postgresql://u:${SECRET}@h:port/d`, says: 'DATABASE_URL must be a URL' },
      { url: `postgresql//u:${SECRET}@h/d`, says: 'DATABASE_URL must be a URL' },
      { url: `u:${SECRET}@h/d`, says: 'DATABASE_URL must be a URL' },
      { url: `https://u:${SECRET}@h/d`, says: 'DATABASE_URL must be a URL' },
    ])('is told of it, without the password: $url', ({ url, says }) => {
      let told = '';
      try {
        new Settings({ AUTH_MODE: 'none', DATABASE_URL: url });
      } catch (error) {
        told = (error as Error).message;
      }
      expect(told).toContain(says);
      expect(told).not.toContain(SECRET);
    });

    it.each(['p%25', 'p%40q', '%2F%3F%23', '', 'p@q', 'p:q', '%C3%A4'])(
      'is none with the password %j',
      (password) => {
        const url = `postgresql://u:${password}@h:5432/d?application_name=x`;
        const settings = new Settings({ AUTH_MODE: 'none', DATABASE_URL: url });
        expect(settings.databaseUrl).toBe(url);
        if (password.length > 0) expect(JSON.stringify(settings.masked())).toContain('//u:***@h');
      },
    );
  });

  it.each([' 10', '1e3', '0x10', 'true', '-1', '10.0'])('refuses %j as an integer', (text) => {
    expect(() => new Settings({ DATABASE_POOL_MAX: text })).toThrow(/DATABASE_POOL_MAX must be/);
  });

  it.each(['TLS_CERT', 'DATABASE_SSL_CA'])('refuses a pipe as %s, which may never end', (name) => {
    const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-env-'));
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', [pipe]);
    expect(() => new Settings({ AUTH_MODE: 'none', [name]: pipe })).toThrow(
      `${name} cannot be read: is not a regular file`,
    );
    rmSync(directory, { recursive: true });
  });

  it('wants a database in production, its own only when that is said aloud', () => {
    expect(() => new Settings({ NODE_ENV: 'production' })).toThrow(/DATABASE_URL is required in production/);
    expect(() => new Settings({ NODE_ENV: 'production', PORT: 'x' })).toThrow(
      /PORT.*DATABASE_URL is required/,
    );
    expect(
      new Settings({ AUTH_MODE: 'none', NODE_ENV: 'production', EMBEDDED_POSTGRES: 'true' }).databaseUrl,
    ).toBeNull();
  });

  it.each([
    [{}],
    [{ HOST: '127.0.0.2' }],
    [{ HOST: '::1' }],
    [{ HOST: 'localhost' }],
    [{ AUTH_MODE: 'none', DATABASE_URL: 'postgresql://h/d', NODE_ENV: 'production' }],
  ])('asks nobody with %j', (environment) => {
    expect(new Settings(environment).authModes).toEqual([]);
  });

  it.each([
    [{ DATABASE_URL: 'postgresql://h/d' }],
    [{ DATABASE_URL: 'postgresql://h/d', HOST: '127.0.0.1' }],
    [{ HOST: '0.0.0.0' }],
    [{ HOST: '127.0.0.1.example.com' }],
    [{ NODE_ENV: 'production', EMBEDDED_POSTGRES: 'true' }],
  ])('wants to be told whom to ask with %j', (environment) => {
    expect(() => new Settings(environment)).toThrow(/^AUTH_MODE is required: keys, jwt or both/);
    expect(new Settings({ ...environment, AUTH_MODE: 'keys' }).authModes).toEqual(['keys']);
  });

  it.each(['all', 'none,keys', 'keys,', 'KEYS', 'keys;jwt'])('refuses AUTH_MODE=%s', (mode) => {
    expect(() => new Settings({ AUTH_MODE: mode })).toThrow('AUTH_MODE must be none, or a list of keys, jwt');
  });

  it('refuses a file of keys that nobody would ask', () => {
    expect(() => new Settings({ AUTH_MODE: 'none', API_KEYS_FILE: 'keys.json' })).toThrow(
      'API_KEYS_FILE needs keys in AUTH_MODE',
    );
  });

  it('serves metrics beside the operations unless they have a port', () => {
    expect(new Settings({}).metricsPort).toBeNull();
    expect(new Settings({ METRICS_PORT: '9464' }).metricsPort).toBe(9464);
  });

  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' };
  it.each([
    { given: {}, tracing: null },
    { given: { OTEL_SERVICE_NAME: 'checkpoints' }, tracing: null },
    { given: endpoint, tracing: { protocol: 'http/protobuf' } },
    {
      given: { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c/v1/traces' },
      tracing: { protocol: 'http/protobuf' },
    },
    {
      given: { ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' },
      tracing: { protocol: 'http/json' },
    },
    { given: { ...endpoint, OTEL_SDK_DISABLED: 'True' }, tracing: null },
    { given: { ...endpoint, OTEL_TRACES_EXPORTER: 'none' }, tracing: null },
  ])('traces as OpenTelemetry says: $given', ({ given, tracing }) => {
    expect(new Settings(given).tracing).toEqual(tracing);
  });

  it('refuses a protocol of traces that it does not speak', () => {
    expect(() => new Settings({ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).toThrow(
      'OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or http/json',
    );
  });

  it('takes origins as browsers send them, and nothing wider', () => {
    expect(new Settings({}).corsOrigins).toEqual([]);
    const listed = new Settings({ CORS_ORIGINS: 'https://a.example, http://localhost:3000' }).corsOrigins;
    expect(listed).toEqual(['https://a.example', 'http://localhost:3000']);
    for (const text of [
      '*',
      'https://*.example',
      'null',
      'a.example',
      'https://a.example/',
      'https://a.example/x',
    ]) {
      expect(() => new Settings({ CORS_ORIGINS: text })).toThrow(`"${text}" is not one`);
    }
  });

  it('leaves the shares of tenants to the service unless they are set', () => {
    expect(new Settings({})).toMatchObject({ tenantMaxConcurrent: null, tenantInflightBytes: null });
    const given = new Settings({ TENANT_MAX_CONCURRENT: '3', TENANT_INFLIGHT_BYTES: '4096' });
    expect(given).toMatchObject({ tenantMaxConcurrent: 3, tenantInflightBytes: 4096 });
  });

  it('shows what is in effect by the names of the environment', () => {
    expect(Object.keys(new Settings({}).masked())).toEqual(SETTING_NAMES);
    expect(new Settings({}).masked()).toMatchObject({
      ...{ PORT: '5003', HOST: '127.0.0.1', AUTH_MODE: 'none', DATABASE_URL: null, TLS_CERT: null },
      ...{ JWT_ALGORITHMS: 'RS256,PS256,ES256,EdDSA', DATABASE_PREPARED: 'true', QUEUE_MAX: '1000' },
      ...{ INFLIGHT_BYTES: '268435456', ANSWER_LIMIT_BYTES: '16777216', METRICS_PORT: null },
    });
    const given = {
      ...{ PORT: '0', AUTH_MODE: 'keys', QUEUE_MAX: '5', DATABASE_URL: 'postgresql://h/d' },
      ...{ INFLIGHT_BYTES: '65536', DATABASE_PREPARED: '0' },
    };
    expect(new Settings(given).masked()).toMatchObject({
      ...given,
      HOST: '0.0.0.0',
      ANSWER_LIMIT_BYTES: '4096',
    });
  });

  it('shows the path of a file, and nothing that is in it', () => {
    const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-env-'));
    const path = join(directory, 'tls.key');
    writeFileSync(path, 's3cret');
    const given = { DATABASE_SSL: 'true', DATABASE_SSL_KEY: path, DATABASE_SSL_CA: path };
    const settings = new Settings(given);
    expect(settings.databaseSsl).toMatchObject({ key: 's3cret' });
    expect(settings.masked()).toMatchObject(given);
    expect(JSON.stringify(settings.masked())).not.toContain('s3cret');
    rmSync(directory, { recursive: true });
  });

  it.each(['JWT_JWKS_URL', 'OTEL_EXPORTER_OTLP_ENDPOINT'])('shows no password in %s', (name) => {
    const settings = new Settings({ [name]: 'https://u:s3cret@h/d' });
    expect(settings.masked()).toMatchObject({ [name]: 'https://u:***@h/d' });
  });

  it('shows no secret', () => {
    const settings = new Settings({
      AUTH_MODE: 'none',
      DATABASE_URL: 'postgresql://u:s3cret@h/d?sslpassword=s3cret',
    });
    expect(JSON.stringify(settings.masked())).not.toContain('s3cret');
    expect(JSON.stringify(settings.masked())).toContain('postgresql://u:***@h/d');
  });
});
