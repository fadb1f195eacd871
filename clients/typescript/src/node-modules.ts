/**
 * Node's own modules by name; undefined in other runtimes and before Node 20.16. An import would keep bundles for browsers and
 * edge runtimes from loading. Bun, Deno and Cloudflare Workers have copies of these modules, built on their own `fetch` and
 * streams; they are told by `navigator`.
 */
export function nodeModules(): typeof process.getBuiltinModule | undefined {
  if (typeof process === 'undefined' || typeof process.getBuiltinModule !== 'function') return undefined;
  const { navigator } = globalThis as { navigator?: { userAgent?: unknown } };
  const isNode = navigator === undefined || String(navigator.userAgent).startsWith('Node.js/');
  // eslint-disable-next-line @typescript-eslint/unbound-method -- a plain function
  return isNode && process.release.name === 'node' ? process.getBuiltinModule : undefined;
}
