/** A server that runs until it is stopped. */
interface Running {
  url: string;
  stop: () => Promise<void>;
}

export function program(name: string, directories?: string[]): string | null;
export function startPostgres(bin: string): Promise<Running>;
export function startForgetfulPgbouncer(
  pgbouncer: string,
  serverUrl: string,
  connections: number,
): Promise<Running>;
