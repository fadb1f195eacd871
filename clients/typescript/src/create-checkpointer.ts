import { HttpCheckpointSaver, type HttpCheckpointSaverOptions } from './http-checkpoint-saver.js';

/** Where the service is, and the key for it, by the names of their variables. A key goes to the address beside it only. */
const VARIABLES = [
  { url: 'CHECKPOINT_URL', key: 'CHECKPOINT_API_KEY' },
  { url: 'AGENTEX_BASE_URL', key: 'AGENT_API_KEY' },
];

/**
 * A saver for the service that the environment names: by `CHECKPOINT_URL` and `CHECKPOINT_API_KEY`, or else by
 * `AGENTEX_BASE_URL` and `AGENT_API_KEY`. With `baseUrl` among the options the environment is not read. Empty variables
 * count as absent.
 * @throws Error when neither the options nor the environment say where the service is
 * @throws TypeError when an option makes no sense
 */
export function createCheckpointer(options: Partial<HttpCheckpointSaverOptions> = {}): HttpCheckpointSaver {
  const { baseUrl } = options;
  if (baseUrl !== undefined) return new HttpCheckpointSaver({ ...options, baseUrl });
  for (const { url, key } of VARIABLES) {
    const found = variable(url);
    if (found === undefined) continue;
    return new HttpCheckpointSaver({ ...options, baseUrl: found, apiKey: options.apiKey ?? variable(key) });
  }
  throw new Error(
    `Set ${VARIABLES.map(({ url }) => url).join(' or ')} to the address of the checkpoint service, or pass baseUrl`,
  );
}

function variable(name: string): string | undefined {
  return (typeof process === 'undefined' ? undefined : process.env[name]) || undefined;
}
