/** A parameter as RFC 9110 has it, behind its semicolon; it may be missing. Nothing in it can be read in two ways. */
const PARAMETER = /;[ \t]*(?:([\w!#$%&'*+.^`|~-]+)=(?:([\w!#$%&'*+.^`|~-]+)|"((?:[^"\\]|\\.)*)"))?[ \t]*/y;

/** Whether a body of that content type is of that media type, in UTF-8; other parameters than `charset` say nothing about it. */
export function isUtf8Of(mediaType: string, type: string): boolean {
  if (type === mediaType) return true;
  const end = type.indexOf(';');
  if (end === -1) return type.trim().toLowerCase() === mediaType;
  if (type.slice(0, end).trim().toLowerCase() !== mediaType) return false;
  PARAMETER.lastIndex = end;
  while (PARAMETER.lastIndex < type.length) {
    const parameter = PARAMETER.exec(type);
    if (parameter === null) return false;
    const [, name = '', token, quoted = ''] = parameter;
    const value = token ?? quoted.replace(/\\(.)/g, '$1');
    if (name.toLowerCase() === 'charset' && !/^utf-?8$/i.test(value)) return false;
  }
  return true;
}

/** How a body is compressed; null when it is not, or by nothing that changes it. */
export type Encoding = 'gzip' | 'deflate' | 'br';

const ENCODINGS: ReadonlyMap<string, Encoding> = new Map([
  ['gzip', 'gzip'],
  ['x-gzip', 'gzip'],
  ['deflate', 'deflate'],
  ['br', 'br'],
]);

/** What `Content-Encoding` says; a text when it is refused, why. */
export function encodingOf(header: string | undefined): { encoding: Encoding | null } | string {
  const named = (header ?? '')
    .split(',')
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== '' && name !== 'identity');
  const [name] = named;
  if (name === undefined) return { encoding: null };
  if (named.length > 1) return 'A body may be compressed once, with gzip, deflate or br';
  const encoding = ENCODINGS.get(name);
  return encoding === undefined ? `unsupported content encoding "${name}"` : { encoding };
}
