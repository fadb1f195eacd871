import { type Fault, MAX_FAULTS } from '../../errors/errors.js';
import { type CompiledClass, isPlain, OF_ANOTHER_KIND } from './compiled-validation.js';

/** The first faults of a request, and how many there are. */
export interface DescribedFaults {
  faults: Fault[];
  total: number;
}

/**
 * What class-validator would say of the request, at some hundred nanoseconds for a field instead of as many microseconds:
 * all are counted, the first are described.
 */
export function describeFaults(compiled: CompiledClass, value: Record<string, unknown>): DescribedFaults {
  const described: DescribedFaults = { faults: [], total: 0 };
  describe(compiled, made(compiled, value), '#', described);
  return described;
}

/** As `compile` makes it, with whatever is wrong left in. */
function made({ type, fields }: CompiledClass, value: Record<string, unknown>): Record<string, unknown> {
  const request = new type() as Record<string, unknown>;
  for (const { name, convert, items } of fields) {
    const given = Object.hasOwn(value, name) ? value[name] : undefined;
    if (given === undefined) continue;
    request[name] =
      items !== undefined && Array.isArray(given)
        ? given.map((item: unknown) => (isPlain(item) ? made(items, item) : item))
        : (convert?.(given, value) ?? given);
  }
  return request;
}

function describe(
  { fields }: CompiledClass,
  request: Record<string, unknown>,
  parent: string,
  into: DescribedFaults,
): void {
  for (const { name, items, applies, checks } of fields) {
    const own = request[name];
    if (applies !== undefined && !applies(own, request)) continue;
    const pointer = `${parent}/${name}`;
    const failed = checks.filter(({ passes }) => !passes(own, request));
    const otherKind = failed.find((check) => check.name === OF_ANOTHER_KIND);
    for (const { messageOf } of otherKind === undefined ? failed : [otherKind]) {
      into.total += 1;
      if (into.faults.length < MAX_FAULTS) into.faults.push({ pointer, detail: messageOf(own, request) });
    }
    if (items === undefined || otherKind !== undefined || !Array.isArray(own)) continue;
    for (const [at, item] of own.entries()) {
      describe(items, item as Record<string, unknown>, `${pointer}/${at}`, into);
    }
  }
}
