import { type Declaration, DECLARATIONS, MIB } from '../config/declarations.js';

const HELP_COLUMNS = 100;

/** Without the marks of Markdown. */
export function plain(markdown: string): string {
  return markdown.replaceAll('`', '');
}

/** What holds when nothing is set; '' when that is nothing. */
export function defaultOf({ default: text, otherwise }: Declaration): string {
  return text ?? plain(otherwise ?? '');
}

/** For `serve --help`: one line for each setting. The default is left out where the line has no room for it. */
export function helpOfSettings(): string {
  const lines = [
    'Settings are environment variables. A file .env in the working directory is read too; the',
    'environment wins. `checkpoint-backend settings` lists them with units and ranges.',
  ];
  for (const [group, settings] of groups()) {
    lines.push('', `${group}:`);
    const width = Math.max(...settings.map(({ name }) => name.length));
    for (const setting of settings) {
      const line = `  ${setting.name.padEnd(width)}  ${plain(setting.meaning)}`;
      const fallback = defaultOf(setting);
      const whole = fallback === '' ? line : `${line} [${fallback}]`;
      lines.push(whole.length <= HELP_COLUMNS ? whole : line);
    }
  }
  return lines.join('\n');
}

/** The file `.env.example`. */
export function settingsAsEnv(): string {
  const lines = [
    '# Copy this file to .env in the working directory of the service, and uncomment what you change.',
    '# Each line shows the default. Where that depends on other settings, the comment says it. The environment wins over',
    '# this file. Made by `npm run settings`; docs/reference/settings.md has the details.',
  ];
  for (const [group, settings] of groups()) {
    lines.push('', `## ${group}`);
    for (const setting of settings) {
      const { name, default: fallback, otherwise, meaning } = setting;
      const notes = [
        rangeOf(setting),
        ...[...sizes(setting), ...(otherwise === null ? [] : [otherwise])].map((note) => `default: ${note}`),
      ];
      lines.push('', `# ${plain(`${meaning} (${notes.join('; ')})`)}`);
      lines.push(`#${name}=${fallback ?? ''}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** The page `docs/reference/settings.md`. */
export function settingsAsMarkdown(): string {
  const lines = [PREFACE];
  for (const [group, settings] of groups()) {
    lines.push(`\n## ${group}\n`, '| Name | Default | Range | Meaning |', '| --- | --- | --- | --- |');
    for (const setting of settings) {
      const { name, default: text, otherwise, meaning, details } = setting;
      const fallback = text === null || text === '' ? (otherwise ?? '') : `\`${text}\``;
      const cells = [
        `\`${name}\``,
        [fallback, ...sizes(setting).map((size) => `(${size})`)].join(' '),
        rangeOf(setting),
        [meaning, details ?? ''].join(' '),
      ];
      lines.push(`| ${cells.join(' | ')} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}

const PREFACE = `# Settings

<!-- Made by \`npm run settings\` from src/config/declarations.ts. -->

The service reads its settings from environment variables. It also reads a file \`.env\` in its working directory; the
environment wins over the file. [.env.example](../../.env.example) has every setting with its default, and
\`checkpoint-backend settings\` prints them.

- An empty variable counts as absent.
- A wrong value stops the start. One message names every wrong setting, with what is allowed.
- The first line of the log shows the settings that are in effect, with passwords masked. A name that looks like a
  misspelt setting is logged as a warning.
- A _boolean_ is \`true\`, \`false\`, \`1\` or \`0\`.
- A _list_ has commas between its words, such as \`AUTH_MODE=keys,jwt\`.
- An _integer_ has digits alone: no unit, no separators.
- A _file_ is given by its path, never by its content. A relative path begins at the working directory. It has to be a
  regular file of at most 16 MiB.
- In a URL, write special characters of a password percent-encoded, such as \`%2F\` for \`/\`.
- OpenTelemetry's SDK reads further variables that begin with \`OTEL_\`, such as \`OTEL_SERVICE_NAME\`,
  \`OTEL_RESOURCE_ATTRIBUTES\`, \`OTEL_TRACES_SAMPLER\` and \`OTEL_BSP_MAX_QUEUE_SIZE\`. They are as
  [OpenTelemetry specifies them](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).`;

function groups(): [name: string, settings: Declaration[]][] {
  const names = [...new Set(DECLARATIONS.map(({ group }) => group))];
  return names.map((name) => [name, DECLARATIONS.filter(({ group }) => group === name)]);
}

/** Range and unit. */
export function rangeOf({ range, unit }: Declaration): string {
  return [range, unit].filter((part) => part !== null).join(' ');
}

/** A default of many bytes, as people read it. */
function sizes({ unit, default: text }: Declaration): string[] {
  const mebibytes = Number(text) / MIB;
  return unit === 'bytes' && text !== null && mebibytes >= 1 ? [`${mebibytes} MiB`] : [];
}
