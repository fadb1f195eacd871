export function compiledClient(): Promise<{ directory: string; url: string; remove: () => void }>;
