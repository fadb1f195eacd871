/** The layers of the service; an import that crosses one fails `npm run check`. */
const layer = (name, from, allowed, comment) => ({
  name,
  comment,
  severity: 'error',
  from: { path: from, pathNot: '\\.spec\\.ts$' },
  to: { pathNot: allowed },
});

const DOMAIN = '^src/checkpoints/(checkpoint(\\.errors)?|tenant)\\.ts$';
const NODE =
  '^(node:)?(async_hooks|buffer|crypto|events|fs|fs/promises|http|net|path|stream|timers/promises|tls|util|child_process|zlib)$';
const nest = (name) => `node_modules/@nestjs/${name}/`;

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    layer('domain', DOMAIN, [DOMAIN], 'Domain types and errors know nothing but each other.'),
    layer(
      'entities',
      '^src/checkpoints/entities/',
      ['node_modules/typeorm/'],
      'An entity is a table, nothing else.',
    ),
    layer(
      'use-cases',
      '^src/checkpoints/use-cases/',
      [
        DOMAIN,
        '^src/checkpoints/(checkpoint|thread)\\.repository\\.ts$',
        '^src/config/env\\.ts$',
        nest('common'),
      ],
      'A use case decides; it knows no HTTP and no SQL.',
    ),
    layer(
      'repository',
      '^src/checkpoints/(channel-histories|checkpoint\\.repository|delta-chain|put-order|thread\\.repository|tables|jsonb-text|postgres-array|read\\.(rows|sql|statement)|store\\.statement|thread-lock)\\.ts$',
      [
        DOMAIN,
        '^src/checkpoints/(entities/|(channel-histories|delta-chain|put-order|thread\\.repository|tables|jsonb-text|postgres-array|read\\.(rows|sql|statement)|store\\.statement|thread-lock)\\.ts$)',
        '^src/(database/(binary-client|database|faults|request-queue))\\.ts$',
        '^src/config/env\\.ts$',
        '^src/metrics/metrics\\.ts$',
        nest('common'),
        'node_modules/typeorm/',
      ],
      'The repository speaks the domain outwards and SQL inwards.',
    ),
    layer(
      'wire',
      '^src/checkpoints/(dto/|checkpoints\\.controller|operation\\.decorator)',
      [
        DOMAIN,
        '^src/checkpoints/(dto/|use-cases/|operation\\.decorator\\.ts$)',
        '^src/auth/audited\\.ts$',
        '^src/http/(caller|compiled-validation|exact-json|json-with-blobs|problem\\.docs|validation)\\.ts$',
        nest('(common|swagger)'),
        'node_modules/(class-validator|class-transformer)/',
        '^(node:)?(http|timers/promises)$',
      ],
      'Controller and DTOs reach the database through use cases only.',
    ),
    layer(
      'auth-use-cases',
      '^src/auth/use-cases/',
      [
        DOMAIN,
        '^src/auth/(use-cases/|api-key(\\.repository)?\\.ts$)',
        '^src/http/principal\\.ts$',
        nest('common'),
      ],
      'What is done with keys knows no HTTP and no SQL.',
    ),
    layer(
      'http',
      '^src/http/',
      [
        '^src/http/',
        '^src/checkpoints/checkpoint\\.errors\\.ts$',
        '^src/config/(env|regular-file)\\.ts$',
        '^src/(metrics/metrics|tracing/tracing)\\.ts$',
        NODE,
        nest('(common|platform-express|swagger)'),
        'node_modules/(express|class-transformer|class-validator|compression|helmet|pino)/',
      ],
      'The HTTP pipeline knows errors, not operations.',
    ),
    layer(
      'metrics',
      '^src/metrics/',
      ['^src/metrics/', '^(node:)?(events|http|net|perf_hooks)$', 'node_modules/prom-client/'],
      'What is counted knows nothing of who counts.',
    ),
    {
      name: 'opentelemetry',
      comment: 'Loaded when traces are asked for, and by nobody else.',
      severity: 'error',
      from: { pathNot: '^src/tracing/opentelemetry\\.ts$' },
      to: { path: 'node_modules/@opentelemetry/' },
    },
    {
      name: 'opentelemetry-late',
      comment: 'A static import would load OpenTelemetry at each start.',
      severity: 'error',
      from: {},
      to: { path: '^src/tracing/opentelemetry\\.ts$', dynamic: false },
    },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'default'] },
  },
};
