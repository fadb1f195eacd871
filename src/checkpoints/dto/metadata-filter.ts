import type { JsonText } from '../../http/exact-json/exact-json.js';

/**
 * What a filter may hold. Postgres compares each element of its arrays with each element of the arrays that are stored, at
 * every depth, and cannot be interrupted meanwhile: so the time is what is stored times these, 25 ms of each MB for an
 * array or object and 6 ms for a scalar (Postgres 15). Objects alone cost a search by key.
 */
const MAX_BYTES = 64 * 1024;
const MAX_VALUES = 1000;
/** In its arrays, at any depth. */
const MAX_ELEMENTS = 16;
/** … of which are arrays or objects. */
const MAX_NESTED = 4;

/** What is wrong with a filter for metadata; null when nothing is. */
export function filterFault({ text }: JsonText): string | null {
  if (text.length > MAX_BYTES || Buffer.byteLength(text) > MAX_BYTES) {
    return `must not be longer than ${MAX_BYTES} bytes`;
  }
  let values = 0;
  let elements = 0;
  let nested = 0;
  const open: { value: unknown; isInArray: boolean }[] = [{ value: JSON.parse(text), isInArray: false }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, isInArray } = next;
    const isNested = typeof value === 'object' && value !== null;
    values += 1;
    if (isInArray) elements += 1;
    if (isInArray && isNested) nested += 1;
    if (!isNested) continue;
    const isArray = Array.isArray(value);
    for (const item of Object.values(value)) open.push({ value: item, isInArray: isInArray || isArray });
  }
  if (values > MAX_VALUES) return `must not hold more than ${MAX_VALUES} values`;
  if (elements > MAX_ELEMENTS) {
    return `must not hold more than ${MAX_ELEMENTS} values inside arrays, all its arrays together`;
  }
  if (nested > MAX_NESTED) return `must not hold more than ${MAX_NESTED} arrays and objects inside arrays`;
  return null;
}
