import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import ts from 'typescript';
import { parseAllDocuments } from 'yaml';
import { programOf } from '../src/commands/program.js';
import { SETTING_NAMES } from '../src/config/env.js';
import { MIGRATIONS_TABLE } from '../src/database/data-source.js';
import { PROBLEMS } from '../src/http/problems/problem.js';
import { Metrics } from '../src/observability/metrics/metrics.js';
import { type Block, faultOf, type Page, pageOf, pages, ROOT } from './support/markdown.js';

const README_LINES = 150;
const PAGE_LINES = 260;
/** Written by a program, or a table of measurements: nobody reads it from one end to the other. */
const IS_GENERATED = /<!-- generated/i;

const PAGES = pages();
const BY_NAME = new Map(PAGES.map((page) => [page.name, page]));
const MANUAL = PAGES.filter(({ name }) => name.startsWith('docs/'));
/** It speaks of names that are gone. */
const CURRENT = PAGES.filter(({ name }) => name !== 'CHANGELOG.md');

/** Of an environment variable or a constant; not of a file. */
const NAME = /(?<![\w/.-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w*]|\.md)/g;

const SHELL = new Set(['sh', 'bash', 'shell']);

/** Every place with a fault, as `page: fault`. */
function faults(of: readonly Page[], find: (page: Page) => (string | null)[]): string[] {
  return of.flatMap((page) =>
    [...new Set(find(page).filter((fault) => fault !== null))].map((fault) => `${page.name}: ${fault}`),
  );
}

const blocksOf = (page: Page, languages: ReadonlySet<string>, check: (block: Block) => string | null) =>
  page.blocks
    .filter(({ language }) => languages.has(language))
    .map((block) => {
      const fault = check(block);
      return fault === null ? null : `line ${block.line}: ${fault}`;
    });

describe('links', () => {
  it('lead to files and headings', () => {
    expect(
      faults(PAGES, (page) =>
        page.links.map((link) => {
          const fault = faultOf(link, page, BY_NAME);
          return fault === null ? null : `"${link}" ${fault}`;
        }),
      ),
    ).toEqual([]);
  });

  it.each([
    { link: 'nowhere.md', fault: 'leads to no file' },
    { link: '../../..', fault: 'is outside of the repository' },
    { link: '#no-such-heading', fault: 'names no heading of the page' },
    { link: '../README.md#no-such-heading', fault: 'names no heading of the page' },
    { link: '#the-put-of-a-thread--its-blobs', fault: null },
    { link: '#twice-1', fault: null },
    { link: '#here', fault: null },
    { link: '../LICENSE', fault: null },
  ])('"$link": $fault', ({ link, fault }) => {
    const text = '# The `put` of a *thread* & its blobs\n\n## Twice\n\n## Twice\n\n<a id="here"></a>\n';
    expect(faultOf(link, pageOf('docs/example.md', text), BY_NAME)).toBe(fault);
  });

  it('reach every page of the manual from its index', () => {
    const index = BY_NAME.get('docs/README.md')?.links.map((link) => link.replace(/#.*/, '')) ?? [];
    const linked = new Set(MANUAL.flatMap(({ links, name }) => links.map((link) => join(name, '..', link))));
    const missing = MANUAL.filter(({ name, text }) => {
      if (name === 'docs/README.md') return false;
      return IS_GENERATED.test(text) ? !linked.has(name) : !index.includes(name.slice('docs/'.length));
    });
    expect(missing.map(({ name }) => name)).toEqual([]);
  });
});

describe('names', () => {
  it('of settings and environment variables exist', () => {
    const known = new Set([...SETTING_NAMES, ...namesOfOthers(), ...namesInCode()]);
    expect(
      faults(CURRENT, ({ text }) =>
        (text.match(NAME) ?? []).map((name) => (known.has(name) || name.startsWith('OTEL_') ? null : name)),
      ),
    ).toEqual([]);
  });

  it('of metrics exist', async () => {
    const metrics = new Metrics('');
    const text = await metrics.scrape();
    metrics.stop();
    const known = new Set([MIGRATIONS_TABLE]);
    for (const [, name, type] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
      const endings = type === 'histogram' ? ['', '_bucket', '_sum', '_count'] : [''];
      for (const ending of endings) known.add(name! + ending);
    }
    expect(
      faults(CURRENT, (page) =>
        [...page.text.matchAll(/checkpoint_backend_\w+/g)].map(([name]) => (known.has(name) ? null : name)),
      ),
    ).toEqual([]);
  });

  it('of problem types exist', () => {
    expect(
      faults(CURRENT, ({ text }) =>
        [...text.matchAll(/["`\s]\/problems\/([\w-]+)/g)].map(([, type]) =>
          type! in PROBLEMS ? null : type!,
        ),
      ),
    ).toEqual([]);
  });

  it('of npm scripts exist', () => {
    const scriptsOf = (path: string) =>
      Object.keys((JSON.parse(readFileSync(join(ROOT, path), 'utf8')) as { scripts: object }).scripts);
    const own = scriptsOf('package.json');
    const client = scriptsOf('clients/typescript/package.json');
    expect(
      faults(CURRENT, ({ text }) =>
        [...text.matchAll(/npm run(?: -[-\w]+)* ([a-z][\w:]*)([^\n`]*)/g)].map(([, script, rest]) =>
          (/-w langgraph-checkpoint-http/.test(rest!) ? client : own).includes(script!)
            ? null
            : `npm run ${script}`,
        ),
      ),
    ).toEqual([]);
  });

  it('of commands and their options exist', () => {
    const program = programOf();
    expect(
      faults(CURRENT, (page) =>
        [...page.code, ...page.blocks.filter(({ language }) => SHELL.has(language)).map(({ text }) => text)]
          .flatMap((code) => commandsIn(code))
          .map((words) => faultOfCommand(program, words)),
      ),
    ).toEqual([]);
  });

  it.each([
    { code: 'checkpoint-backend nonsense', fault: 'checkpoint-backend has no command nonsense' },
    {
      code: 'KEY=$(npm run --silent keys -- make --name a)',
      fault: 'checkpoint-backend keys has no command make',
    },
    {
      code: 'npx checkpoint-backend migrate --grant',
      fault: 'checkpoint-backend migrate has no option --grant',
    },
    { code: 'PORT=1 node dist/src/main.js keys list --json | jq', fault: null },
    { code: 'npm run migrate -- --grant-to ROLE', fault: null },
    { code: 'npm run tenants -- move --tenant acme \\\n  --all', fault: null },
  ])('$code: $fault', ({ code, fault }) => {
    expect(commandsIn(code).map((words) => faultOfCommand(programOf(), words))).toEqual([fault]);
  });
});

describe('pages', () => {
  it('are of a length that is read', () => {
    const tooLong = CURRENT.filter(
      ({ name, lines, text }) =>
        !IS_GENERATED.test(text) && lines > (name === 'README.md' ? README_LINES : PAGE_LINES),
    );
    expect(tooLong.map(({ name, lines }) => `${name} has ${lines} lines`)).toEqual([]);
  });

  it('say of every block which language it is in', () => {
    expect(
      faults(PAGES, ({ blocks }) =>
        blocks.map(({ line, language }) => (language === '' ? `line ${line}` : null)),
      ),
    ).toEqual([]);
  });

  it('have JSON that parses', () => {
    expect(
      faults(PAGES, (page) =>
        blocksOf(page, new Set(['json']), ({ text }) => thrownBy(() => JSON.parse(text))),
      ),
    ).toEqual([]);
  });

  it('have YAML that parses', () => {
    expect(
      faults(PAGES, (page) =>
        blocksOf(page, new Set(['yaml', 'yml']), ({ text }) => {
          const errors = parseAllDocuments(text).flatMap((document) => document.errors);
          return errors[0]?.message ?? null;
        }),
      ),
    ).toEqual([]);
  });

  it('have TypeScript and JavaScript that parse', () => {
    expect(
      faults(PAGES, (page) =>
        blocksOf(page, new Set(['ts', 'typescript', 'js', 'javascript']), ({ text }) => {
          const { diagnostics = [] } = ts.transpileModule(text, { reportDiagnostics: true });
          return diagnostics[0] ? ts.flattenDiagnosticMessageText(diagnostics[0].messageText, '\n') : null;
        }),
      ),
    ).toEqual([]);
  });

  it('have Python that parses', () => {
    const blocks = PAGES.flatMap(({ name, blocks: all }) =>
      all
        .filter(({ language }) => ['python', 'py'].includes(language))
        .map(({ line, text }) => ({ place: `${name}: line ${line}`, text })),
    );
    const { status, stdout, error } = spawnSync('python3', ['-c', PARSE_PYTHON], {
      input: JSON.stringify(blocks),
      encoding: 'utf8',
    });
    if (error) {
      console.log('The Python of the documentation was NOT parsed: there is no python3.');
      return;
    }
    expect({ status, faults: JSON.parse(stdout) as string[] }).toEqual({ status: 0, faults: [] });
  });

  it('have shell that parses, also where it is not run', () => {
    expect(
      faults(PAGES, (page) =>
        blocksOf(page, SHELL, ({ text }) => {
          const { status, stderr } = spawnSync('bash', ['-n'], { input: text, encoding: 'utf8' });
          return status === 0 ? null : stderr.trim();
        }),
      ),
    ).toEqual([]);
  });
});

/** `await` outside of functions is allowed, as in a notebook. */
const PARSE_PYTHON = `
import ast, json, sys, textwrap
faults = []
for block in json.load(sys.stdin):
    try:
        compile(textwrap.dedent(block["text"]), "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        faults.append(f"{block['place']}: {error}")
print(json.dumps(faults))
`;

function thrownBy(work: () => void): string | null {
  try {
    work();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Variables and errors of tools, and what a reader may call as he likes. */
function namesOfOthers(): string[] {
  return [
    ...['NODE_OPTIONS', 'NODE_EXTRA_CA_CERTS', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'NO_PROXY'],
    'NODE_USE_ENV_PROXY',
    ...['SSL_CERT_FILE', 'SSL_CERT_DIR', 'AGENTEX_BASE_URL', 'AGENT_API_KEY', 'LANGGRAPH_STRICT_MSGPACK'],
    ...['POSTGRES_PASSWORD', 'POSTGRES_USER', 'POSTGRES_DB', 'ON_ERROR_STOP', 'CHECKPOINT_ENCRYPTION_KEY'],
    ...['CHROMIUM_PATH'],
    ...['CERTIFICATE_VERIFY_FAILED', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'ERR_TLS_CERT_ALTNAME_INVALID'],
  ];
}

/** Constants, and what clients, tools and tests read from their environment. Suites have misspelt names on purpose. */
function namesInCode(): string[] {
  return ['src', 'clients', 'test', 'bench', 'examples']
    .flatMap((folder) =>
      readdirSync(join(ROOT, folder), { recursive: true }).map((path) => join(folder, String(path))),
    )
    .filter(
      (path) =>
        /(\.([mc]?[jt]s|py)|\/run[\w-]*)$/.test(path) &&
        !/(\.|-)spec\.ts$|node_modules|\/\.|dist\//.test(path),
    )
    .flatMap((path) => readFileSync(join(ROOT, path), 'utf8').match(/[A-Z][A-Z0-9]*(_[A-Z0-9]+)+/g) ?? []);
}

/** The arguments of every call of the program, whatever name it is called by. */
function commandsIn(code: string): string[][] {
  return code
    .replace(/\\\n/g, ' ')
    .replace(/(^|\s)#.*$/gm, '')
    .split(/[\n;&|()`]+/)
    .flatMap((text) => {
      const words = text
        .split(/[<>]/, 1)[0]!
        .split(/\s+/)
        .filter((word) => word !== '');
      while (/^([A-Z_]+=.*|\$|exec|npx|-.*)$/.test(words[0] ?? '')) words.shift();
      const at = words.findIndex((word) => word.endsWith('dist/src/main.js'));
      if (at >= 0) return [words.slice(at + 1)];
      if (words[0] === 'checkpoint-backend') return [words.slice(1)];
      const [npm, run, ...rest] = words.filter((word) => !['-s', '--silent', '--'].includes(word));
      const isOurs = npm === 'npm' && run === 'run' && COMMANDS.has(rest[0] ?? '');
      return isOurs ? [rest] : [];
    });
}

/** Scripts of npm with the name of a command. */
const COMMANDS = new Set(['migrate', 'keys', 'tenants', 'blobs', 'openapi']);

function faultOfCommand(program: Command, words: string[]): string | null {
  let command = program;
  let path = program.name();
  for (const word of words) {
    if (!/^[a-z]+$/.test(word) || command.commands.length === 0) break;
    const next = command.commands.find((child) => child.name() === word);
    if (next === undefined) return word === 'help' ? null : `${path} has no command ${word}`;
    [command, path] = [next, `${path} ${word}`];
  }
  const options = [command, ...command.commands.filter((child) => child.name() === 'run')].flatMap((own) =>
    own.options.map(({ long }) => long),
  );
  const unknown = words
    .map((word) => /^--[a-z][\w-]*/.exec(word)?.[0])
    .find((flag) => flag !== undefined && !['--help', '--version', ...options].includes(flag));
  return unknown === undefined ? null : `${path} has no option ${unknown}`;
}
