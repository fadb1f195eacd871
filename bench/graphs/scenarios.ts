/** The whole graphs that are measured. */
export const SAVERS = ['memory', 'direct', 'service'] as const;
export type Saver = (typeof SAVERS)[number];
export const LANGUAGES = ['Python, async', 'Python, sync', 'Node'] as const;

/** Agents in one process, each with a thread of its own. */
export interface Scenario {
  language: (typeof LANGUAGES)[number];
  durability: 'async' | 'sync';
  agents: number;
  /** Messages that the state has at its beginning. */
  messagesBefore: number;
  messageBytes: number;
  supersteps: number;
}

/** What agents.py and agents.ts read. */
export interface Task extends Scenario {
  saver: Saver;
  databaseUrl: string;
  serviceUrl: string;
  /** Supersteps of a run that is not measured. */
  warmUp: number;
}

/** Of a superstep: the time until all have ended divided by their number, and the CPU time of the agents' process. */
export interface Sample {
  wallMs: number;
  cpuMs: number;
}

const SHORT = { messagesBefore: 0, messageBytes: 500, supersteps: 60 };
/** A state of 100 KB, of which each superstep stores all. */
const LONG = { messagesBefore: 200, messageBytes: 500, supersteps: 30 };

/** More agents than connections: what waiting for a turn costs. As many supersteps as those of 64, since each run begins with more. */
const MANY = { language: 'Python, async', durability: 'async', ...SHORT, supersteps: 20 } as const;

export const SCENARIOS: Scenario[] = LANGUAGES.flatMap((language): Scenario[] => [
  { language, durability: 'async', agents: 1, ...SHORT },
  { language, durability: 'sync', agents: 1, ...SHORT },
  { language, durability: 'async', agents: 16, ...SHORT },
  { language, durability: 'async', agents: 64, ...SHORT, supersteps: 20 },
  { language, durability: 'async', agents: 1, ...LONG },
  { language, durability: 'async', agents: 16, ...LONG, supersteps: 15 },
]).concat([
  { ...MANY, agents: 200 },
  { ...MANY, agents: 1000 },
]);

/** As the page names it. */
export function nameOf({ language, durability, agents, messagesBefore }: Scenario): string {
  const conversation = messagesBefore > 0 ? ', long conversation' : '';
  return `${language}, ${agents} ${agents === 1 ? 'agent' : 'agents'}, durability ${durability}${conversation}`;
}

export function isPython({ language }: Scenario): boolean {
  return language !== 'Node';
}
