import type { RunnableConfig } from '@langchain/core/runnables';

/** What may be the id of a thread, a checkpoint or a run; on the wire all are text. */
export type Id = string | number | bigint;

/** What a request asks for; null is no condition. */
export interface AskedKey {
  thread_id: string | null;
  checkpoint_ns: string | null;
  checkpoint_id: string | null;
}

/**
 * The id as text. What is no id, such as an object that its caller took for one, would be the same text, so the same thread,
 * for everybody who makes that mistake.
 * @throws TypeError that names where the value stands
 */
export function idText(value: unknown, name: string): string {
  const isId =
    typeof value === 'string' ? value !== '' : typeof value === 'bigint' || Number.isSafeInteger(value);
  if (isId) return String(value);
  throw new TypeError(
    `${name} must be a text that is not empty, a safe integer or a bigint, not ${shown(value)}`,
  );
}

/** The id of `configurable`; null when it is undefined, null or empty. */
export function optionalIdText(
  config: RunnableConfig | undefined,
  key: string,
  name = 'config',
): string | null {
  const value: unknown = config?.configurable?.[key];
  return value === undefined || value === null || value === ''
    ? null
    : idText(value, `${name}.configurable.${key}`);
}

/** Null when it is undefined or null. */
export function namespaceText(config: RunnableConfig): string | null {
  const value: unknown = config.configurable?.checkpoint_ns;
  if (value === undefined || value === null || typeof value === 'string') return value ?? null;
  throw new TypeError(`config.configurable.checkpoint_ns must be a text, not ${shown(value)}`);
}

/** All of them, before anything is sent. */
export function idTexts(values: readonly Id[], name: string): string[] {
  if (!Array.isArray(values)) throw new TypeError(`${name} must be an array of ids, not ${shown(values)}`);
  return Array.from(values as readonly unknown[], (value, at) => idText(value, `${name}[${at}]`));
}

/** What in an answer was not asked for: a key that is another's. */
export function strangerTo(asked: Partial<AskedKey>): (item: unknown) => string | undefined {
  const conditions = Object.entries(asked).filter(([, value]) => value !== null);
  return (item) => {
    if (typeof item !== 'object' || item === null) return `${shown(item)} in place of an object`;
    for (const [name, value] of conditions) {
      const found = (item as Record<string, unknown>)[name];
      if (found !== value) return `${name} ${shown(found)}, not ${shown(value)}`;
    }
    return undefined;
  };
}

/** For messages: what it is, without all that is in it. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}
