/** JSON parsed so that nothing is lost: numbers keep their literals, objects every key, and the last of equal keys counts. */
export type Exact = null | boolean | string | { number: string } | Exact[] | Map<string, Exact>;

export function parseExact(text: string): Exact {
  let at = 0;
  const space = () => {
    while (' \t\r\n'.includes(text[at] ?? 'x')) at += 1;
  };
  const string = (): string => {
    const start = at;
    for (at += 1; text[at] !== '"'; at += 1) if (text[at] === '\\') at += 1;
    at += 1;
    return JSON.parse(text.slice(start, at)) as string;
  };
  const items = (close: string, item: () => unknown) => {
    at += 1;
    space();
    while (text[at] !== close) {
      if (text[at] === ',') at += 1;
      space();
      item();
      space();
    }
    at += 1;
  };
  const value = (): Exact => {
    space();
    if (text[at] === '"') return string();
    if (text[at] === '[') {
      const array: Exact[] = [];
      items(']', () => array.push(value()));
      return array;
    }
    if (text[at] === '{') {
      const object = new Map<string, Exact>();
      items('}', () => {
        const key = string();
        space();
        at += 1; // the colon
        object.set(key, value());
      });
      return object;
    }
    const literal = /[^\s,\]}]+/y;
    literal.lastIndex = at;
    const word = literal.exec(text)?.[0] ?? '';
    at += word.length;
    return word === 'true' ? true : word === 'false' ? false : word === 'null' ? null : { number: word };
  };
  return value();
}

/** Equal for two documents exactly when they mean the same; `number` says how a literal is to be written. */
export function canonical(value: Exact, number: (literal: string) => string = (literal) => literal): string {
  if (Array.isArray(value)) return `[${value.map((item) => canonical(item, number)).join()}]`;
  if (value instanceof Map) {
    const keys = [...value.keys()].sort();
    return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value.get(key) ?? null, number)}`).join()}}`;
  }
  if (typeof value === 'object' && value !== null) return number(value.number);
  return JSON.stringify(value);
}
