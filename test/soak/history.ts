import { isDeepStrictEqual } from 'node:util';
import type { Caller } from './caller.js';
import { contentOf, differenceOf, textOf } from './content.js';

/** A thread as one agent, which alone uses it, has stored it: everything follows from these. */
export interface Thread {
  id: string;
  /** What the content names: tenant, thread and how often its id was used before. A copy has that of its source. */
  label: string;
  /** Bytes of each step's large blob. */
  blobBytes: number;
  steps: Step[];
}

export interface Step {
  n: number;
  /** Null where there is none, or where it was pruned. */
  parent: number | null;
  run: string;
  isReplaced: boolean;
}

export interface WireBlob {
  channel: string;
  version: string;
  type: string;
  blob: string;
}

export interface WireWrite {
  task_id: string;
  idx: number;
  channel: string;
  type: string;
  blob: string;
  task_path?: string;
}

export interface WireTuple {
  thread_id: string;
  checkpoint_ns: string;
  checkpoint_id: string;
  parent_checkpoint_id: string | null;
  checkpoint: { channel_versions?: Record<string, string> };
  metadata: Record<string, unknown>;
  blobs: WireBlob[];
  pending_writes: WireWrite[];
}

const LOG_EVERY = 3;
const SETTINGS_BYTES = 3000;
const TASKS = ['task-a', 'task-b'];
const WRITES_OF_TASK = 3;
/** Of channels up to so many bytes a task sends the value on. */
const MAX_SENT_BYTES = 100_000;
/** The channel of which only some steps store a value; the rest is in writes. */
const LOG = 'log';

export const idOf = (n: number) => `step-${String(n).padStart(6, '0')}`;
const isSnapshot = (n: number) => n % LOG_EVERY === 1;

/** Label and size of the channel that grows. */
function valueOf({ label, blobBytes }: Pick<Thread, 'label' | 'blobBytes'>, n: number) {
  return { label: `${label}/messages ${n}`, bytes: blobBytes + 600 * n + ((n * 7919) % 500) };
}

/** Label and size of every blob that the checkpoint of a step names. */
function blobsOf({ label, blobBytes }: Thread, n: number) {
  const size = (what: number) => 40 + ((n * 7919 + what * 104_729) % 6000);
  return [
    ...(isSnapshot(n)
      ? [{ channel: LOG, version: `v${n}`, label: `${label}/log ${n}`, bytes: size(1) }]
      : []),
    { channel: 'messages', version: `v${n}`, ...valueOf({ label, blobBytes }, n) },
    { channel: 'settings', version: 'v1', label: `${label}/settings`, bytes: SETTINGS_BYTES },
  ];
}

export function putOf(thread: Thread, { n, parent, run }: Step) {
  return {
    thread_id: thread.id,
    checkpoint_ns: '',
    checkpoint_id: idOf(n),
    parent_checkpoint_id: parent === null ? null : idOf(parent),
    checkpoint: {
      v: 4,
      id: idOf(n),
      channel_values: { note: textOf(`${thread.label}/note ${n}`, 300) },
      channel_versions: { [LOG]: `v${n}`, messages: `v${n}`, settings: 'v1' },
    },
    metadata: {
      step: n,
      run_id: run,
      owner: textOf(`${thread.label}/metadata ${n}`, 100),
      counters_since_delta_snapshot: { [LOG]: (n - 1) % LOG_EVERY },
    },
    blobs: blobsOf(thread, n)
      .filter(({ channel }) => channel !== 'settings' || n === 1)
      .map((blob) => ({
        channel: blob.channel,
        version: blob.version,
        type: 'msgpack',
        blob: contentOf(blob.label, blob.bytes).toString('base64'),
      })),
  };
}

/** The last one of a task is the value of a channel, as what is sent to another task holds the state. */
function writesOf(thread: Thread, n: number, task: string, isReplaced: boolean) {
  const { label } = thread;
  return Array.from({ length: WRITES_OF_TASK }, (_, idx) => ({
    task_id: task,
    idx,
    channel: idx === 0 ? LOG : `channel-${idx}`,
    type: 'msgpack',
    task_path: `~pull, ${task}`,
    ...(idx === WRITES_OF_TASK - 1 && thread.blobBytes < MAX_SENT_BYTES
      ? valueOf(thread, n)
      : {
          label: `${label}/write ${n} ${task} ${idx}${isReplaced ? ' replaced' : ''}`,
          bytes: 30 + ((n * 31 + idx * 977) % 2500),
        }),
  }));
}

export function putWritesOf(thread: Thread, n: number, task: string, isReplaced: boolean) {
  return {
    thread_id: thread.id,
    checkpoint_ns: '',
    checkpoint_id: idOf(n),
    upsert: isReplaced,
    writes: writesOf(thread, n, task, isReplaced).map(({ label, bytes, ...write }) => ({
      ...write,
      blob: contentOf(label, bytes).toString('base64'),
    })),
  };
}

/** Compares an answer with what was stored, to the byte. */
export class Comparison {
  constructor(
    private readonly caller: Caller,
    private readonly thread: Thread,
  ) {}

  tuple(what: string, found: WireTuple | null, step: Step | undefined, withTaskPath: boolean): void {
    this.caller.findings.checks += 1;
    if (found === null || step === undefined) {
      if (found === null && step !== undefined)
        this.fault('lost', `${what}: nothing instead of step ${step.n}`);
      if (found !== null && step === undefined)
        this.fault('returned', `${what}: ${found.checkpoint_id} though it was deleted`);
      return;
    }
    const { blobs, pending_writes: writes, ...rest } = found;
    const wanted: object = { ...putOf(this.thread, step), blobs: undefined };
    if (!isDeepStrictEqual({ ...rest, blobs: undefined }, wanted)) {
      this.fault('wrong', `${what}: ${JSON.stringify(rest)} instead of ${JSON.stringify(wanted)}`);
      return;
    }
    this.pieces(
      `${what} of step ${step.n}, blobs`,
      [...blobs].sort((a, b) => (a.channel < b.channel ? -1 : 1)),
      blobsOf(this.thread, step.n).map((blob) => ({ type: 'msgpack', ...blob })),
    );
    const wantedWrites = TASKS.flatMap((task) =>
      writesOf(this.thread, step.n, task, step.isReplaced && task === TASKS[0]),
    ).map(({ task_path, ...write }) => (withTaskPath ? { ...write, task_path } : write));
    this.pieces(`${what} of step ${step.n}, writes`, writes, wantedWrites);
  }

  /** Rows whose `blob` is the content that a label stands for. */
  pieces(what: string, found: { blob: string }[], wanted: { label: string; bytes: number }[]): void {
    const keys = (rows: object[]) =>
      JSON.stringify(
        rows.map((row) =>
          Object.entries(row)
            .filter(([name]) => !['blob', 'label', 'bytes'].includes(name))
            .sort(),
        ),
      );
    if (keys(found) !== keys(wanted)) {
      const kind = found.length < wanted.length ? 'lost' : 'wrong';
      this.fault(kind, `${what}: ${keys(found)} instead of ${keys(wanted)}`);
      return;
    }
    for (const [n, { label, bytes }] of wanted.entries()) {
      const content = Buffer.from(found[n]?.blob ?? '', 'base64');
      const difference = differenceOf(content, label, bytes);
      if (difference === null) continue;
      this.caller.own(what, content);
      this.fault('wrong', `${what}: ${difference}`);
    }
  }

  history(
    found: Record<string, { writes: (WireWrite & { checkpoint_id: string })[]; seed?: WireBlob }>,
  ): void {
    this.caller.findings.checks += 1;
    const { thread } = this;
    const byNumber = new Map(thread.steps.map((step) => [step.n, step]));
    const writes: { label: string; bytes: number }[] = [];
    let seed: ReturnType<typeof blobsOf>[number] | undefined;
    let at = byNumber.get(thread.steps.at(-1)?.parent ?? 0);
    for (; at !== undefined && seed === undefined; at = byNumber.get(at.parent ?? 0)) {
      const { n, isReplaced } = at;
      const own = TASKS.flatMap((task) => writesOf(thread, n, task, isReplaced && task === TASKS[0]))
        .filter(({ channel }) => channel === LOG)
        .map(({ task_id, idx, type, task_path, label, bytes }) => ({
          ...{ checkpoint_id: idOf(n), task_id, idx, type, task_path, label, bytes },
        }));
      writes.unshift(...own);
      seed = blobsOf(thread, n).find(({ channel }) => channel === LOG);
    }
    const log = found[LOG];
    this.pieces('history, writes', log?.writes ?? [], writes);
    this.pieces(
      'history, seed',
      log?.seed === undefined ? [] : [log.seed],
      seed === undefined ? [] : [{ type: 'msgpack', label: seed.label, bytes: seed.bytes } as never],
    );
  }

  private fault(kind: 'lost' | 'wrong' | 'returned', what: string): void {
    const { tenant, findings } = this.caller;
    findings.fault(kind, `${tenant.name}, thread ${this.thread.id} (${this.thread.label}): ${what}`);
  }
}

/** Reads a thread, page by page; with a limit, so many. */
export async function listed(caller: Caller, request: object, limit = Infinity): Promise<WireTuple[]> {
  const items: WireTuple[] = [];
  let cursor: string | undefined;
  do {
    const page = await caller.post('list', {
      ...request,
      ...(limit !== Infinity && { limit: limit - items.length }),
      ...(cursor !== undefined && { cursor }),
    });
    const found = page.json as WireTuple[];
    if (cursor !== undefined && found.length === 0) break;
    items.push(...found);
    cursor = page.cursor;
  } while (cursor !== undefined && items.length < limit);
  return items;
}
