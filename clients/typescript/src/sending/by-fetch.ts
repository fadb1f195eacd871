import { AnswerTooLargeError, type Incoming, type Outgoing, type Send } from './send.js';

/** How runtimes say that they do not know `cache`: Cloudflare Workers, by their compatibility date. */
const NO_CACHE_MODES = /['"`]cache['"`]|cache (mode|field|option)/i;
/** What Node's decoder of answers throws for a text that is too long. It replaces invalid bytes, so it has no other reason. */
const TOO_LONG = new Set(['ERR_STRING_TOO_LONG', 'ERR_ENCODING_INVALID_ENCODED_DATA']);

/** Sends by a `fetch`, below the base, which ends with a slash. */
export function byFetch(base: string, fetch: typeof globalThis.fetch): Send {
  // Next.js 13 and 14 keep the answer of every fetch, of a POST too, unless it says this.
  let cache: { cache?: 'no-store' } = { cache: 'no-store' };

  async function uncached(url: string, request: RequestInit): Promise<Response> {
    try {
      return await fetch(url, { ...request, ...cache });
    } catch (error) {
      const { message } = (error ?? {}) as { message?: unknown };
      if (!('cache' in cache) || !NO_CACHE_MODES.test(String(message))) throw error;
      cache = {};
      return fetch(url, request);
    }
  }

  return async ({ operation, headers, body, ending }: Outgoing): Promise<Incoming> => {
    const abort = new AbortController();
    ending.onEnd(() => {
      abort.abort(ending.reason);
    });
    const init: RequestInit = { method: 'POST', headers, body, signal: abort.signal, redirect: 'manual' };
    const response = await uncached(base + operation, init);
    const { statusText } = response;
    const status = response.type === 'opaqueredirect' ? 0 : response.status;
    // To its end, also when it is an error: only then is the connection free for the next request.
    return { status, statusText, headers: response.headers, text: await textOf(response) };
  };
}

async function textOf(response: Response): Promise<string> {
  try {
    return await response.text();
  } catch (error) {
    const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown };
    if (TOO_LONG.has(code as string) || name === 'RangeError')
      throw new AnswerTooLargeError({ cause: error });
    throw error;
  }
}
