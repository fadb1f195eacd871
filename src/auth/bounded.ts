/** Longer than any id that an operation takes. */
const MAX_CHARACTERS = 2600;
/** Of a list, so many characters of its first elements. */
const MAX_LIST_CHARACTERS = 8192;

/** The same for the audit log, where no line may be long: of a long list its first elements and their number. */
export function bounded(detail: object, maxListCharacters = MAX_LIST_CHARACTERS): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(detail).map(([name, value]) => [
      name,
      Array.isArray(value) ? listOf(value, maxListCharacters) : boundedText(value),
    ]),
  );
}

function listOf(elements: unknown[], maxCharacters: number): unknown {
  const first: unknown[] = [];
  let characters = 0;
  for (const element of elements) {
    const text = boundedText(element);
    characters += (typeof text === 'string' ? text : JSON.stringify(text)).length;
    if (characters > maxCharacters) return { first, count: elements.length };
    first.push(text);
  }
  return first;
}

/** What an operation takes is text or a number; of anything else, which it refuses, the type says enough. */
function boundedText(value: unknown): unknown {
  if (typeof value === 'object' && value !== null) return '(an object)';
  if (typeof value !== 'string' || value.length <= MAX_CHARACTERS) return value;
  return `${value.slice(0, MAX_CHARACTERS)}… (${value.length} characters)`;
}
