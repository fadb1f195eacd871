import { isDeepStrictEqual } from 'node:util';
import { setTimeout as delay } from 'node:timers/promises';
import type { Caller } from './caller.js';
import { contentOf, differenceOf, textOf } from './content.js';
import { listed, type WireTuple } from './history.js';

/** Rows of a thread as they are in the tables, for what no answer shows. */
export interface StoredRows {
  checkpoints: string[];
  /** Channel and version. */
  blobs: string[];
  /** Checkpoint, task and index. */
  writes: string[];
}

/** One of several requests that are under way at once. */
interface Deed {
  operation: string;
  from: number;
  /** Infinity while it is under way. */
  until: number;
  body: object;
  checkpointId?: string;
  run?: string;
  task?: string;
  count?: number;
}

const RUNS = ['run-1', 'run-2'];
const SHARED = ['a', 'z'];
const BLOB_BYTES = 700;
const DELETES_ALL = new Set(['delete-thread', 'prune delete']);

/**
 * Requests that meet on one thread: stores, deletes, prunes and copies at once. Which of them came first is not known, so
 * what is left is compared with what every order has in common.
 */
export class Racers {
  private rounds = 0;

  constructor(
    private readonly name: string,
    /** Each has a connection of its own. */
    private readonly callers: Caller[],
    private readonly storedRows: (tenant: string, threadId: string) => Promise<StoredRows>,
    private readonly isOver: () => boolean,
  ) {}

  async live(): Promise<void> {
    while (!this.isOver()) await this.round();
  }

  private get caller(): Caller {
    return this.callers[0]!;
  }

  private async round(): Promise<void> {
    const { caller } = this;
    const { chance, findings, tenant } = caller;
    this.rounds += 1;
    findings.rounds += 1;
    // The same two ids over and over: what outlives a round is seen in the next one.
    const thread = `${this.name}-thread`;
    const copy = `${this.name}-copy`;
    const label = `${tenant.name}/${thread} round ${this.rounds}`;
    const deeds: Deed[] = [];
    const known = chance.between(0, 3);
    for (let n = 1; n <= known; n += 1) await this.run(caller, this.put(thread, label, n), deeds);
    const racing = Array.from({ length: chance.between(2, this.callers.length) }, (_, n) => {
      const one = this.callers[n]!;
      return { one, deed: this.any(thread, copy, label, known, n), pause: chance.between(0, 8) };
    });
    await Promise.all(
      racing.map(async ({ one, deed, pause }) => {
        if (chance.is(0.5)) await delay(pause);
        await this.run(one, deed, deeds);
      }),
    );
    await this.judge(thread, label, deeds, await this.storedRows(tenant.name, thread), false);
    await this.judge(copy, label, deeds, await this.storedRows(tenant.name, copy), true);
    for (const id of [thread, copy]) {
      await caller.post('delete-thread', { thread_id: id });
      const left = await this.storedRows(tenant.name, id);
      const count = left.checkpoints.length + left.blobs.length + left.writes.length;
      if (count > 0)
        findings.fault('returned', `${label}: ${JSON.stringify(left)} after a delete that met nobody`);
    }
  }

  private async run(caller: Caller, deed: Deed, deeds: Deed[]): Promise<void> {
    deed.from = performance.now();
    deeds.push(deed);
    await caller.post(deed.operation.split(' ')[0]!, deed.body);
    deed.until = performance.now();
  }

  private any(thread: string, copy: string, label: string, known: number, n: number): Deed {
    const { chance } = this.caller;
    const kind = chance.of([
      'put',
      'put',
      'put-writes',
      'delete',
      'delete',
      'prune',
      'runs',
      'copy',
    ] as const);
    const aDeed = (operation: string, body: object, more: Partial<Deed> = {}): Deed => ({
      ...{ operation, body, from: 0, until: Infinity },
      ...more,
    });
    switch (kind) {
      case 'put': // another one, or one that is known sent again
        return this.put(
          thread,
          label,
          known > 0 && chance.is(0.3) ? chance.between(1, known) : known + 1 + n,
        );
      case 'put-writes': {
        const checkpointId = idOf(chance.between(1, known + 2));
        const [task, count] = [`task-${n}`, chance.of([2, 40, 300])];
        const writes = Array.from({ length: count }, (_, idx) => ({
          ...{ task_id: task, idx, channel: 'c', type: 'bytes' },
          blob: contentOf(`${label}/${task} ${idx}`, 200).toString('base64'),
        }));
        const body = { thread_id: thread, checkpoint_id: checkpointId, writes };
        return aDeed('put-writes', body, { checkpointId, task, count });
      }
      case 'delete':
        return chance.is(0.7)
          ? aDeed('delete-thread', { thread_id: thread })
          : aDeed('prune delete', { thread_ids: [thread], strategy: 'delete' });
      case 'prune':
        return aDeed('prune keep_latest', { thread_ids: [thread], strategy: 'keep_latest' });
      case 'runs': {
        const run = chance.of(RUNS);
        return aDeed(
          'delete-for-runs',
          { run_ids: [`${this.caller.tenant.name} ${this.name} ${run}`] },
          { run },
        );
      }
      case 'copy':
        return aDeed('copy-thread', { source_thread_id: thread, target_thread_id: copy });
    }
  }

  /** Every checkpoint has two blobs that all have and one of its own, and sends all three. */
  private put(thread: string, label: string, n: number): Deed {
    const blobs = [...SHARED, 'own'].map((channel) => ({
      ...{ channel, version: channel === 'own' ? String(n) : '1', type: 'bytes' },
      blob: contentOf(`${label}/${channel === 'own' ? `own ${n}` : channel}`, BLOB_BYTES).toString('base64'),
    }));
    const run = RUNS[n % RUNS.length]!;
    return {
      ...{ operation: 'put', from: 0, until: Infinity, checkpointId: idOf(n), run },
      body: { thread_id: thread, checkpoint_id: idOf(n), ...this.documents(label, n), blobs },
    };
  }

  private documents(label: string, n: number) {
    const versions = { a: '1', z: '1', own: String(n) };
    return {
      checkpoint: {
        ...{ v: 4, id: idOf(n), channel_versions: versions },
        channel_values: { note: textOf(`${label}/note ${n}`, 200) },
      },
      metadata: { run_id: `${this.caller.tenant.name} ${this.name} ${RUNS[n % RUNS.length]!}`, n },
    };
  }

  /** What is there when all have been answered. */
  private async judge(
    thread: string,
    label: string,
    deeds: Deed[],
    rows: StoredRows,
    isCopy: boolean,
  ): Promise<void> {
    const { caller } = this;
    const { findings } = caller;
    findings.checks += 1;
    const seen = () =>
      `${label}${isCopy ? ', the copy' : ''}, after ${deeds.map(({ operation, checkpointId = '', run = '', from, until }) => `${operation} ${checkpointId}${run} ${(from - deeds[0]!.from).toFixed(1)}–${(until - deeds[0]!.from).toFixed(1)} ms`).join(', ')}`;
    const items = await listed(caller, { thread_id: thread, include: ['blobs', 'pending_writes'] });
    const ids = items.map((item) => item.checkpoint_id);
    if (ids.toSorted().join() !== rows.checkpoints.toSorted().join())
      findings.fault('wrong', `list says ${ids.join()}, the table ${rows.checkpoints.join()}: ${seen()}`);
    for (const item of items) this.compare(item, label, seen);
    const named = new Set(
      items.flatMap(({ checkpoint }) =>
        Object.entries(checkpoint.channel_versions ?? {}).map(
          ([channel, version]) => `${channel} ${version}`,
        ),
      ),
    );
    const orphans = rows.blobs.filter((blob) => !named.has(blob));
    if (orphans.length > 0)
      findings.fault('returned', `blobs ${orphans.join()} that no checkpoint names: ${seen()}`);
    for (const { task, count, checkpointId } of deeds.filter(({ operation }) => operation === 'put-writes')) {
      const found = rows.writes.filter((row) => row.startsWith(`${checkpointId} ${task} `)).length;
      if (found !== 0 && found !== count)
        findings.fault('partial', `${found} of ${count} writes of ${task}: ${seen()}`);
    }
    if (isCopy) this.judgeCopy(deeds, ids, seen);
    else this.judgeThread(deeds, ids, rows, seen);
  }

  private compare(item: WireTuple, label: string, seen: () => string): void {
    const { caller } = this;
    const { findings } = caller;
    const n = Number(item.checkpoint_id.slice('step-'.length));
    const { checkpoint, metadata, blobs, pending_writes: writes } = item;
    if (!isDeepStrictEqual({ checkpoint, metadata }, this.documents(label, n)))
      findings.fault('wrong', `${JSON.stringify({ checkpoint, metadata })}: ${seen()}`);
    if (blobs.length !== SHARED.length + 1)
      findings.fault(
        'lost',
        `${item.checkpoint_id} has the blobs [${blobs.map(({ channel }) => channel).join()}]: ${seen()}`,
      );
    for (const { channel, blob } of blobs)
      this.bytes(blob, `${label}/${channel === 'own' ? `own ${n}` : channel}`, BLOB_BYTES, seen);
    for (const { task_id, idx, blob } of writes) this.bytes(blob, `${label}/${task_id} ${idx}`, 200, seen);
  }

  private bytes(blob: string, label: string, length: number, seen: () => string): void {
    const content = Buffer.from(blob, 'base64');
    const difference = differenceOf(content, label, length);
    if (difference === null) return;
    this.caller.own(label, content);
    const kind = difference.includes(' round ') && !difference.includes(label) ? 'returned' : 'wrong';
    this.caller.findings.fault(kind, `${difference}: ${seen()}`);
  }

  private judgeThread(deeds: Deed[], ids: string[], rows: StoredRows, seen: () => string): void {
    const { findings } = this.caller;
    const puts = deeds.filter(({ operation }) => operation === 'put');
    for (const put of puts) {
      const isThere = ids.includes(put.checkpointId!);
      const deletes = deeds.filter((deed) => mayDelete(deed, put, puts));
      if (!isThere && !deletes.some(({ until }) => until > put.from))
        findings.fault('lost', `${put.checkpointId!}, though every delete had ended before: ${seen()}`);
      const again = puts.filter((other) => other.checkpointId === put.checkpointId);
      const last = Math.max(...again.map(({ until }) => until));
      if (isThere && deeds.some((deed) => mustDelete(deed, put) && deed.from > last))
        findings.fault('returned', `${put.checkpointId!}, though its delete began after it: ${seen()}`);
    }
    for (const write of deeds.filter(({ operation }) => operation === 'put-writes')) {
      const found = rows.writes.some((row) => row.startsWith(`${write.checkpointId!} ${write.task!} `));
      const all = deeds.filter(
        (deed) => deed.operation !== 'copy-thread' && !deed.operation.startsWith('put'),
      );
      if (!found && !all.some(({ until }) => until > write.from))
        findings.fault(
          'lost',
          `the writes of ${write.task!}, though every delete had ended before: ${seen()}`,
        );
      const last = all.find(({ operation, from }) => DELETES_ALL.has(operation) && from > write.until);
      if (found && last !== undefined)
        findings.fault(
          'returned',
          `the writes of ${write.task!}, though the delete began after them: ${seen()}`,
        );
    }
  }

  /** A copy that was acknowledged has what was there before it and was not deleted until after it. */
  private judgeCopy(deeds: Deed[], ids: string[], seen: () => string): void {
    const puts = deeds.filter(({ operation }) => operation === 'put');
    for (const copy of deeds.filter(({ operation }) => operation === 'copy-thread')) {
      for (const put of puts.filter(({ until }) => until < copy.from)) {
        // A run is deleted from the copy too.
        const isDeleted = deeds.some(
          (deed) =>
            mayDelete(deed, put, puts) &&
            deed.until > put.from &&
            (deed.from < copy.until || deed.operation === 'delete-for-runs'),
        );
        if (!ids.includes(put.checkpointId!) && !isDeleted)
          this.caller.findings.fault('lost', `${put.checkpointId!} of the source: ${seen()}`);
      }
    }
  }
}

const idOf = (n: number) => `step-${String(n).padStart(6, '0')}`;

/** Whether it removes the checkpoint of the put when it comes after it. */
function mustDelete({ operation, run }: Deed, put: Deed): boolean {
  return DELETES_ALL.has(operation) || (operation === 'delete-for-runs' && run === put.run);
}

function mayDelete(deed: Deed, put: Deed, puts: Deed[]): boolean {
  const isOlder = puts.some(({ checkpointId }) => checkpointId! > put.checkpointId!);
  return mustDelete(deed, put) || (deed.operation === 'prune keep_latest' && isOlder);
}
