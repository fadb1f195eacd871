/**
 * The layers of the service, from the lowest. A folder of `src` imports from itself and from folders below its own, so that
 * imports run one way. An import that crosses a rule fails `npm run check`.
 */
const LAYERS = [
  ['errors'],
  ['config'],
  ['observability', 'request'],
  ['database', 'http'],
  ['auth'],
  ['checkpoints', 'health'],
  ['server'],
  ['commands'],
];

const rule = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });
const SPECS = '\\.spec\\.ts$';
const nest = (name) => `node_modules/@nestjs/${name}/`;

const layers = LAYERS.flatMap((folders, at) =>
  folders.map((folder) => {
    const allowed = [folder, ...LAYERS.slice(0, at).flat()].join('|');
    return rule(
      `layer-${folder}`,
      'A folder imports from itself and from the layers below it.',
      { path: `^src/${folder}/`, pathNot: SPECS },
      { path: '^src/', pathNot: `^src/(${allowed})/` },
    );
  }),
);

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...layers,
    rule(
      'errors-alone',
      'What can go wrong is known to everybody, and knows nobody.',
      { path: '^src/errors/' },
      { pathNot: '^src/errors/' },
    ),
    rule(
      'domain',
      'The domain knows nothing but errors.',
      { path: '^src/checkpoints/domain/' },
      { pathNot: '^src/(checkpoints/domain|errors)/' },
    ),
    rule(
      'entities',
      'An entity is a table, nothing else.',
      { path: '^src/[^/]+/entities/' },
      { pathNot: 'node_modules/typeorm/' },
    ),
    rule(
      'use-cases',
      'A use case decides. It knows no HTTP, and no SQL but a repository.',
      { path: '^src/[^/]+/use-cases/', pathNot: SPECS },
      {
        pathNot: [
          '^src/(errors|config|request)/',
          '^src/[^/]+/domain/',
          '^src/[^/]+/use-cases/',
          '\\.repository\\.ts$',
          nest('common'),
        ],
      },
    ),
    rule(
      'sql',
      'SQL speaks the domain outwards. It knows no HTTP.',
      { path: '^src/checkpoints/sql/' },
      {
        path: [
          '^src/(http|auth)/',
          '^src/checkpoints/(dto|use-cases)/',
          'node_modules/(@nestjs/swagger|express)/',
        ],
      },
    ),
    rule(
      'wire',
      'Controllers and DTOs reach the database through use cases only.',
      { path: ['^src/[^/]+/dto/', '\\.controller\\.ts$'], pathNot: SPECS },
      { path: ['^src/database/', '^src/checkpoints/(sql|entities)/', 'node_modules/(typeorm|pg)/'] },
    ),
    rule(
      'opentelemetry',
      'Loaded when traces are asked for, and by nobody else.',
      { pathNot: '/opentelemetry\\.ts$' },
      { path: 'node_modules/@opentelemetry/' },
    ),
    rule(
      'opentelemetry-late',
      'A static import would load OpenTelemetry at each start.',
      {},
      { path: '/opentelemetry\\.ts$', dynamic: false },
    ),
    rule('no-cycles', 'Nothing imports itself, by whatever way.', {}, { circular: true }),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'default'] },
  },
};
