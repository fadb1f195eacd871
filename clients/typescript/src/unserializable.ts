/**
 * What LangGraph's `JsonPlusSerializer` puts in place of the whole value when JSON refuses a part of it: a bigint, or what throws
 * from its `toJSON`.
 */
const SENTENCE = new TextEncoder().encode(
  '"[unable to serialize, circular reference is too complex to analyze]"',
);

/** @throws TypeError when the serializer has lost the value, which nobody would notice before it is read */
export function refuseLost(value: unknown, type: string, bytes: Uint8Array): void {
  if (typeof value === 'string' || type !== 'json' || bytes.length !== SENTENCE.length) return;
  if (SENTENCE.every((byte, at) => byte === bytes[at])) {
    throw new TypeError(
      'JSON has no text for a part of it, such as a bigint; turn it into a text or a number',
    );
  }
}
