import { AnswerTooLargeError } from './send.js';

type BuiltIn = typeof process.getBuiltinModule;

/**
 * The text of an answer's body, which may be compressed.
 * @throws AnswerTooLargeError when it has more characters than a string can hold
 */
export function textOf(
  builtIn: BuiltIn,
  bytes: Buffer,
  encoding: string | null | undefined,
): string | Promise<string> {
  const { MAX_STRING_LENGTH } = builtIn('node:buffer').constants;
  const text = (plain: Buffer): string => {
    if (plain.length > MAX_STRING_LENGTH) throw new AnswerTooLargeError();
    return plain.toString();
  };
  if (encoding == null || encoding === 'identity' || bytes.length === 0) return text(bytes);
  return new Promise<Buffer>((resolve, reject) => {
    builtIn('node:zlib').unzip(bytes, (error, plain) => {
      if (error === null) resolve(plain);
      else reject(error);
    });
  }).then(text);
}
