import { byFetch } from './by-fetch.js';
import { byNode } from './by-node.js';
import type { Send } from './send.js';

/** Where undici, which is Node's `fetch`, keeps what sends for it. Node itself sets it for `NODE_USE_ENV_PROXY`. */
const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
/** Where Next.js 15 and newer say that they have replaced `fetch`; older ones say it on the function. */
const NEXT_PATCH = Symbol.for('next-patch');

/**
 * The cheapest way to send below the base: Node's own HTTP, and the global `fetch` where there is none or `fetch` was set up
 * for more than to send. Looked at for each request, since that may happen after the saver was made.
 */
export function chosenSend(base: string): Send {
  const fetching = byFetch(base, (...request) => globalThis.fetch(...request));
  const node = byNode(base);
  if (node === undefined) return fetching;
  return (request) => (isByNext() || isByDispatcher() ? fetching : node)(request);
}

/** Next.js learns by its `fetch` which pages must not be built in advance. */
function isByNext(): boolean {
  const { fetch } = globalThis as { fetch?: { __nextPatched?: boolean } };
  return (globalThis as Record<symbol, unknown>)[NEXT_PATCH] === true || fetch?.__nextPatched === true;
}

/** Somebody has put a proxy, a mock or an own way to connect in place of undici's plain `Agent`. */
function isByDispatcher(): boolean {
  const dispatcher = (globalThis as Record<symbol, object | undefined>)[DISPATCHER];
  if (dispatcher === undefined) return false;
  if (dispatcher.constructor.name !== 'Agent') return true;
  const key = Object.getOwnPropertySymbols(dispatcher).find(({ description }) => description === 'options');
  const options = key && (dispatcher as Record<symbol, { connect?: unknown } | undefined>)[key];
  return options?.connect !== undefined;
}
