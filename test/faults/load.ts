import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import {
  canonicalTuple,
  type History,
  idOf,
  putOf,
  REPLACE_EVERY,
  stepsOf,
  tupleOf,
  writesOf,
} from './history.js';
import { HEADERS } from './key.js';

/** How long a thread is. */
const STEPS = 8;
/** Threads that an agent remembers; before it begins another one, the oldest is read once more and deleted. */
const MAX_HELD = 8;
const PAUSE_MS = 100;
/** An answer that takes longer is an error: the service promises one before. */
const HANG_MS = 90_000;

/** What was seen since the last look. */
export interface Window {
  requests: number;
  /** Requests that changed something and were acknowledged. */
  acknowledged: number;
  /** Answers that are no 2xx by status and type, broken connections by code. */
  errors: Map<string, number>;
  /** Answers that were not what had been stored. */
  wrong: string[];
  longestMs: number;
}

const emptyWindow = (): Window => ({
  requests: 0,
  acknowledged: 0,
  errors: new Map(),
  wrong: [],
  longestMs: 0,
});

/** Agents in closed loops. Each has threads of its own, and compares every answer with what it has stored there. */
export class Load {
  private window = emptyWindow();
  private sample: number[] = [];
  private isOver = false;
  private readonly agents: Promise<void>[];
  /** When each agent last got an answer. */
  private readonly lastAnswer: number[];
  private readonly held: History[][];

  /** `route` names the instance that a request goes to, as a load balancer would. */
  constructor(
    private readonly name: string,
    count: number,
    private readonly route: (agent: number) => string,
    private readonly isSampled = false,
  ) {
    this.lastAnswer = Array<number>(count).fill(0);
    this.held = this.lastAnswer.map(() => []);
    this.agents = this.lastAnswer.map((_, agent) => this.live(agent));
  }

  /** What happened since the last call. */
  take(): Window {
    const { window } = this;
    this.window = emptyWindow();
    return window;
  }

  /** Of every request since the last call; for a soak, whose windows are longer than its samples. */
  latenciesSinceSample(): number[] {
    const { sample } = this;
    this.sample = [];
    return sample;
  }

  /** Resolves when every agent has had an answer to a request since now. */
  async everyAgentAnswered(): Promise<void> {
    const since = performance.now();
    while (this.lastAnswer.some((at) => at < since)) await delay(5);
  }

  /** Lets every agent end its step. Resolves with what there has to be now. */
  async stop(): Promise<History[]> {
    this.isOver = true;
    await Promise.all(this.agents);
    return this.held.flat();
  }

  private hasEnded(): boolean {
    return this.isOver;
  }

  private async live(agent: number): Promise<void> {
    const connection = new Caller(this, agent);
    const held = this.held[agent] ?? [];
    for (let n = 0; !this.isOver; n += 1) {
      const threadId = `${this.name}-${agent}-${n}`;
      const history: History = { threadId, origin: threadId, steps: 0, fate: 'kept' };
      held.push(history);
      while (history.steps < STEPS && !this.hasEnded()) await step(connection, history);
      if (history.steps === STEPS) await end(connection, history, n, held);
      while (held.length > MAX_HELD) {
        const oldest = held[0];
        if (oldest === undefined) break;
        await check(connection, oldest);
        await connection.post('delete-thread', { thread_id: oldest.threadId });
        held.shift();
      }
    }
    connection.close();
  }

  /** One attempt; what it says is counted. Null when there is no answer that a client can use. */
  async attempt(
    agent: number,
    connections: http.Agent,
    operation: string,
    body: string,
  ): Promise<{ json: unknown } | null> {
    const { window } = this;
    const begun = performance.now();
    let error: string | null;
    let json: unknown;
    try {
      const answer = await send(`${this.route(agent)}/checkpoints/${operation}`, connections, body);
      json = answer.json;
      const { type = '' } = (json ?? {}) as { type?: string };
      error = answer.status < 300 ? null : `${answer.status} ${type}`.trim();
    } catch (cause) {
      error = (cause as { code?: string }).code ?? (cause as Error).message;
    }
    this.lastAnswer[agent] = performance.now();
    window.requests += 1;
    const latencyMs = performance.now() - begun;
    window.longestMs = Math.max(window.longestMs, latencyMs);
    if (this.isSampled) this.sample.push(latencyMs);
    if (error === null) {
      if (!['get-tuple', 'list'].includes(operation)) window.acknowledged += 1;
      return { json };
    }
    window.errors.set(error, (window.errors.get(error) ?? 0) + 1);
    return null;
  }

  expect(what: string, found: string, wanted: string): void {
    if (found === wanted) return;
    let at = 0;
    while (found[at] === wanted[at]) at += 1;
    const around = (text: string) => text.slice(Math.max(0, at - 80), at + 80);
    this.window.wrong.push(`${what}: …${around(found)}… instead of …${around(wanted)}…`);
  }
}

/** An agent's way to the service: a connection of its own, and requests that are repeated until they are acknowledged. */
class Caller {
  private readonly connections = new http.Agent({ keepAlive: true, maxSockets: 1 });

  constructor(
    private readonly load: Load,
    private readonly agent: number,
  ) {}

  async post(operation: string, body: object): Promise<unknown> {
    const text = JSON.stringify(body);
    for (;;) {
      const answer = await this.load.attempt(this.agent, this.connections, operation, text);
      if (answer !== null) return answer.json;
      await delay(PAUSE_MS * (0.5 + Math.random()));
    }
  }

  expect(what: string, found: string, wanted: string): void {
    this.load.expect(what, found, wanted);
  }

  close(): void {
    this.connections.destroy();
  }
}

/** One step of an agent: a checkpoint, its tasks' writes, and the look back. */
async function step(caller: Caller, history: History): Promise<void> {
  const n = history.steps + 1;
  const key = { thread_id: history.threadId, checkpoint_ns: '', checkpoint_id: idOf(n) };
  // Before their checkpoint, as a fast task may.
  await caller.post('put-writes', { ...key, writes: writesOf(history, n, 1, false), upsert: false });
  await caller.post('put', putOf(history, n));
  await caller.post('put-writes', { ...key, writes: writesOf(history, n, 0, false), upsert: false });
  if (n % REPLACE_EVERY === 0) {
    await caller.post('put-writes', { ...key, writes: writesOf(history, n, 0, true), upsert: true });
  }
  history.steps = n;
  const tuple = await caller.post('get-tuple', { thread_id: history.threadId });
  caller.expect('get-tuple', tuple === null ? 'null' : canonicalTuple(tuple), tupleOf(history, n));
  if (n % 4 === 0) {
    const listed = (await caller.post('list', { thread_id: history.threadId, limit: 3 })) as {
      checkpoint_id: string;
    }[];
    const ids = listed.map((item) => item.checkpoint_id);
    caller.expect('list', ids.join(), [n, n - 1, n - 2].map(idOf).join());
  }
}

/** What becomes of a thread at its end. */
async function end(caller: Caller, history: History, n: number, held: History[]): Promise<void> {
  const { threadId } = history;
  switch (n % 4) {
    case 0:
      await caller.post('delete-thread', { thread_id: threadId });
      history.fate = 'deleted';
      break;
    case 1: {
      const copy = { ...history, threadId: `${threadId}-copy` };
      await caller.post('copy-thread', { source_thread_id: threadId, target_thread_id: copy.threadId });
      held.push(copy);
      await check(caller, copy);
      break;
    }
    case 2:
      await caller.post('prune', { thread_ids: [threadId], strategy: 'keep_latest' });
      history.fate = 'pruned';
  }
  await check(caller, history);
}

/** Compares everything that the service says of a thread. */
async function check(caller: Caller, history: History): Promise<void> {
  const include = ['blobs', 'pending_writes'];
  const listed = await caller.post('list', { thread_id: history.threadId, include });
  caller.expect(
    `list of a ${history.fate} thread`,
    (listed as unknown[]).map(canonicalTuple).join(),
    stepsOf(history)
      .reverse()
      .map((n) => tupleOf(history, n))
      .join(),
  );
}

/** Compares every thread through the service. Resolves with what was not as it should be. */
export async function checkAll(name: string, histories: History[], route: () => string): Promise<string[]> {
  const load = new Load(name, 0, route);
  const caller = new Caller(load, 0);
  for (const history of histories) await check(caller, history);
  caller.close();
  return load.take().wrong;
}

async function send(
  url: string,
  agent: http.Agent,
  body: string,
): Promise<{ status: number; json: unknown }> {
  const request = http.request(url, {
    agent,
    method: 'POST',
    headers: { ...HEADERS, 'content-length': Buffer.byteLength(body) },
    timeout: HANG_MS,
  });
  request.on('timeout', () => request.destroy(new Error(`no answer within ${HANG_MS} ms`)));
  request.end(body);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk as string;
  return { status: response.statusCode ?? 0, json: text === '' ? undefined : JSON.parse(text) };
}
