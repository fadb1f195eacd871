import { SETTING_NAMES } from './env.js';
import { misspeltAmong } from './misspelt.js';

it.each([
  ['DATABASE_POOLMAX', 'DATABASE_POOL_MAX'],
  ['DATABASE_POOL_SIZE', 'DATABASE_POOL_MAX'],
  ['DATABASE_URI', 'DATABASE_URL'],
  ['DATABSE_URL', 'DATABASE_URL'],
  ['database_url', 'DATABASE_URL'],
  ['AUTHMODE', 'AUTH_MODE'],
  ['BODY_LIMIT', 'BODY_LIMIT_BYTES'],
  ['WORKER', 'WORKERS'],
  ['PORTS', 'PORT'],
  ['TLS_CERT_FILE', 'TLS_CERT'],
  ['OTEL_EXPORTER_OTLP_ENDPONT', 'OTEL_EXPORTER_OTLP_ENDPOINT'],
])('takes %s for %s', (name, meant) => {
  expect(misspeltAmong([name], SETTING_NAMES)).toEqual([{ name, meant }]);
});

it('leaves alone what is a setting', () => {
  expect(misspeltAmong(SETTING_NAMES, SETTING_NAMES)).toEqual([]);
});

it.each([
  ...['PATH', 'HOME', 'HOSTNAME', 'PWD', 'USER', 'TERM', 'LANG', 'SHLVL', 'EDITOR', 'TZ', '_', 'CI'],
  ...['NODE_OPTIONS', 'NODE_VERSION', 'NODE_EXTRA_CA_CERTS', 'YARN_VERSION', 'NPM_CONFIG_CACHE'],
  ...['npm_config_loglevel', 'npm_package_name', 'npm_lifecycle_event', 'npm_node_execpath'],
  ...[
    'HTTP_PROXY',
    'https_proxy',
    'NO_PROXY',
    'SSL_CERT_FILE',
    'PGHOST',
    'PGPASSWORD',
    'HOST_IP',
    'POD_NAME',
  ],
  ...['KUBERNETES_SERVICE_HOST', 'KUBERNETES_PORT_443_TCP_ADDR', 'CHECKPOINT_BACKEND_SERVICE_PORT'],
  // Kubernetes makes them of a Service with the name "database".
  ...['DATABASE_SERVICE_HOST', 'DATABASE_PORT', 'DATABASE_PORT_5432_TCP'],
  ...['OTEL_SERVICE_NAME', 'OTEL_EXPORTER_OTLP_HEADERS', 'OTEL_EXPORTER_OTLP_METRICS_ENDPOINT'],
  ...['OTEL_LOGS_EXPORTER', 'OTEL_METRICS_EXPORTER', 'OTEL_TRACES_SAMPLER', 'OTEL_EXPORTER_OTLP_TIMEOUT'],
])('says nothing of %s, which is for somebody else', (name) => {
  expect(misspeltAmong([name], SETTING_NAMES)).toEqual([]);
});
