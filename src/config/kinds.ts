import { z } from 'zod';
import { textOfFileSync } from './regular-file.js';

/** The kinds of values that a setting may have. A kind checks a text by the same range that it prints. */
export interface Kind<S extends z.ZodType> {
  /** Reads the text of an environment variable. */
  schema: S;
  /** What a number counts, or what a text is. Null: the range says it. */
  unit: string | null;
  /** In Markdown. */
  range: string | null;
  /** The text that the schema reads as the value. */
  write: (value: z.output<S>) => string;
  /** What a log may show of the text. */
  mask: (text: string) => string;
}

const kind = <S extends z.ZodType>(
  schema: S,
  of: Pick<Kind<S>, 'unit' | 'range'> & Partial<Kind<S>>,
): Kind<S> => ({ schema, write: String, mask: (text) => text, ...of });

export const integer = (min: number, max: number, unit: string | null = null) =>
  kind(
    z
      .string()
      .refine(
        (text) => /^-?\d+$/.test(text) && Number(text) >= min && Number(text) <= max,
        `must be an integer from ${min} to ${max}`,
      )
      .transform(Number),
    { unit, range: `${min} to ${max}` },
  );

export const milliseconds = (min: number, max: number) => integer(min, max, 'milliseconds');

export const bytes = (min: number, max: number) => integer(min, max, 'bytes');

export const boolean = () =>
  kind(
    z
      .enum(['true', 'false', '1', '0'], { error: 'must be true or false' })
      .transform((text) => text === 'true' || text === '1'),
    { unit: 'boolean', range: null },
  );

export const text = (unit = 'text') => kind(z.string(), { unit, range: null });

export const identifier = () =>
  kind(
    z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,62}$/, 'must be a plain identifier of at most 63 characters'),
    {
      unit: null,
      range: 'identifier of at most 63 letters, digits and underscores',
    },
  );

/** A file that is read later, and may change. */
export const path = (of: string) => text(`path of a ${of}`);

/** A file that is read at the start: the value is its text. */
export const pem = () =>
  kind(
    z.string().transform((path, context) => {
      try {
        return textOfFileSync(path);
      } catch (error) {
        context.addIssue(`cannot be read: ${error instanceof Error ? error.message : String(error)}`);
        return z.NEVER;
      }
    }),
    { unit: 'path of a PEM file', range: null },
  );

export const url = () => kind(z.url(), { unit: 'URL', range: null, mask: maskUrl });

export const httpUrl = () =>
  kind(z.url({ protocol: /^https?$/, error: 'must be a URL of http or https' }), {
    unit: 'URL',
    range: null,
    mask: maskUrl,
  });

/** No fault quotes the URL, which holds a password. */
export const postgresUrl = () =>
  kind(
    z.string().superRefine((text, context) => {
      const url = URL.canParse(text) ? new URL(text) : null;
      if (url === null || !['postgres:', 'postgresql:'].includes(url.protocol)) {
        context.addIssue('must be a URL such as postgresql://user:password@host:5432/database');
        return;
      }
      // Such a character ended the password, whose rest would be taken for a database and be shown as one.
      if (url.hash !== '' || /@/.test(url.pathname + url.search)) {
        context.addIssue(': in a password "/", "?" and "#" are written %2F, %3F and %23');
      }
      const parts = {
        user: url.username,
        password: url.password,
        host: url.hostname,
        database: url.pathname,
      };
      for (const [name, part] of Object.entries(parts)) {
        const decoded = decodedOrNull(part);
        if (decoded === null) context.addIssue(`: ${name} contains a bare "%"; write %25`);
        else if (decoded.includes('\0'))
          context.addIssue(`: ${name} contains NUL, which Postgres does not take`);
      }
    }),
    { unit: 'URL', range: null, mask: maskUrl },
  );

function decodedOrNull(part: string): string | null {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

function maskUrl(text: string): string {
  const url = new URL(text);
  if (url.password !== '') url.password = '***';
  for (const name of ['password', 'sslpassword'])
    if (url.searchParams.has(name)) url.searchParams.set(name, '***');
  return url.href;
}

export const origins = () =>
  kind(
    z.string().transform((text, context) => {
      const listed = wordsOf(text);
      for (const origin of listed) {
        if (origin.includes('*') || !URL.canParse(origin) || new URL(origin).origin !== origin)
          context.addIssue(`must list origins such as https://app.example.com, "${origin}" is not one`);
      }
      return listed;
    }),
    { unit: 'list of origins', range: null },
  );

export const oneOf = <const W extends readonly string[]>(words: W) =>
  kind(
    z.enum(words, {
      error: `must be ${words.length > 2 ? `one of ${words.join(', ')}` : words.join(' or ')}`,
    }),
    {
      unit: null,
      range: [words.slice(0, -1), words.slice(-1)].map(code).join(' or '),
    },
  );

/** Words with commas between. `none` is the word for the empty list. */
export const listOf = <W extends string>(words: readonly W[], none?: string) => {
  const isWord = (word: string): word is W => (words as readonly string[]).includes(word);
  const must = `${none === undefined ? '' : `${none}, or `}a list of ${words.join(', ')}`;
  return kind(
    z
      .string()
      .transform((text) => (text.trim() === none ? [] : wordsOf(text)))
      .refine((given) => given.every(isWord), `must be ${must}`)
      .transform((given) => given.filter(isWord)),
    {
      unit: null,
      range: `${none === undefined ? '' : `${code([none])}, or `}list of ${code(words)}`,
      write: (list) => list.join(',') || (none ?? ''),
    },
  );
};

function wordsOf(text: string): string[] {
  return text.split(',').map((word) => word.trim());
}

function code(words: readonly string[]): string {
  return words.map((word) => `\`${word}\``).join(', ');
}
