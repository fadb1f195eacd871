import { nodeModules } from '../node-modules.js';
import { byFetch } from './by-fetch.js';
import { byNode } from './by-node.js';
import { bySocket } from './by-socket.js';
import type { Send } from './send.js';

/** Where undici, which is Node's `fetch`, keeps what sends for it. Node itself sets it for `NODE_USE_ENV_PROXY`. */
const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
/** Where Next.js 15 and newer say that they have replaced `fetch`; older ones say it on the function. */
const NEXT_PATCH = Symbol.for('next-patch');

/** Node's own `request` of `node:http` or `node:https`, by its source: what has replaced it may have done so before this is loaded. */
const OWN_REQUEST = /^function request\([^]*\bClientRequest\b/;
/** Where Node tells tracers of its requests. */
const CHANNELS = ['created', 'start'].map((event) => `http.client.request.${event}`);

/**
 * The cheapest way to send below the base: over connections of its own, by Node's HTTP where that is watched or replaced, and by
 * the global `fetch` where there is no Node or `fetch` was set up for more than to send. Looked at for each request, since that may
 * happen after the saver was made.
 */
export function chosenSend(base: string): Send {
  const fetching = byFetch(base, (...request) => globalThis.fetch(...request));
  const [socket, node] = [bySocket(base), byNode(base)];
  if (socket === undefined || node === undefined) return fetching;
  const isWatched = watch(base);
  return (request) => (isByNext() || isByDispatcher() ? fetching : isWatched() ? node : socket)(request);
}

/** Whether a tracer or a mock wants to see the requests of `node:http`. */
function watch(base: string): () => boolean {
  const builtIn = nodeModules();
  if (builtIn === undefined) return () => true;
  const http = builtIn(base.startsWith('https:') ? 'node:https' : 'node:http');
  const channels = CHANNELS.map((name) => builtIn('node:diagnostics_channel').channel(name));
  let known: unknown;
  let isOwn = false;
  return () => {
    if (http.request !== known) {
      known = http.request;
      isOwn = OWN_REQUEST.test(Function.prototype.toString.call(http.request));
    }
    return !isOwn || channels.some(({ hasSubscribers }) => hasSubscribers);
  };
}

/** Next.js learns by its `fetch` which pages must not be built in advance. */
function isByNext(): boolean {
  const { fetch } = globalThis as { fetch?: { __nextPatched?: boolean } };
  return (globalThis as Record<symbol, unknown>)[NEXT_PATCH] === true || fetch?.__nextPatched === true;
}

let knownDispatcher: object | undefined;
let isKnownToSend = false;

/** Somebody has put a proxy, a mock or an own way to connect in place of undici's plain `Agent`. */
function isByDispatcher(): boolean {
  const dispatcher = (globalThis as Record<symbol, object | undefined>)[DISPATCHER];
  if (dispatcher === undefined) return false;
  if (dispatcher !== knownDispatcher) {
    knownDispatcher = dispatcher;
    isKnownToSend = dispatcher.constructor.name !== 'Agent' || connectOf(dispatcher) !== undefined;
  }
  return isKnownToSend;
}

/** The option of an `Agent`. */
function connectOf(dispatcher: object): unknown {
  const key = Object.getOwnPropertySymbols(dispatcher).find(({ description }) => description === 'options');
  return key && (dispatcher as Record<symbol, { connect?: unknown } | undefined>)[key]?.connect;
}
