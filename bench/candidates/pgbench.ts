import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Database } from '../database.js';
import type { LoadResult } from '../load.js';
import {
  METADATA_TEMPLATE,
  type Shape,
  TYPE,
  WRITES_PER_TASK,
  checkpointTemplate,
  pieces,
  stepSql,
} from '../payload.js';
import { output } from '../processes.js';
import { debianPrograms } from '../server.js';
import { getTupleSql, putSql, putWritesSql } from '../statements.js';
import { Candidate, type Signals, type Task } from './candidate.js';

const programs = debianPrograms();
export const PGBENCH =
  programs !== null && existsSync(join(programs, 'pgbench')) ? join(programs, 'pgbench') : null;

/** The yardstick's statements for the steps of agents, sent by Postgres's own load generator: what the database can do. */
export class Pgbench extends Candidate {
  constructor(database: Database) {
    super('pgbench', database);
  }

  async run({ shape, agents, walk, warmUpMs, timedMs }: Task, { begin, end }: Signals): Promise<LoadResult> {
    if (walk.kind !== 'new threads') throw new Error('pgbench makes threads only');
    const script = scriptOf(shape, walk.steps);
    const warmUp = await this.pgbench(script, shape, agents, warmUpMs, 'warm-up');
    begin();
    const timed = await this.pgbench(script, shape, agents, timedMs, 'timed');
    end();
    const steps = warmUp.steps + timed.steps;
    return {
      operations: timed.steps * (2 + shape.tasks),
      seconds: timed.steps / timed.stepsPerSecond,
      latencyMs: null,
      acknowledged: { put: steps, 'put-writes': steps * shape.tasks, 'get-tuple': steps },
    };
  }

  private async pgbench(script: string, shape: Shape, agents: number, ms: number, run: string) {
    const [content = Buffer.alloc(0)] = pieces(shape.blobBytes);
    const variables = {
      run,
      n: '-1',
      template: checkpointTemplate(shape),
      metadata: METADATA_TEMPLATE,
      blob: content.toString(),
      write: content.toString('utf8', 0, shape.writeBytes),
    };
    const url = new URL(this.database.url);
    const PGPASSWORD = decodeURIComponent(url.password);
    url.password = '';
    const printed = await output(
      PGBENCH ?? '',
      [
        ...['--no-vacuum', '--protocol=prepared', '--file=-', `--client=${agents}`, '--jobs=2'],
        `--time=${Math.max(1, Math.round(ms / 1000))}`,
        ...Object.entries(variables).map(([name, value]) => `--define=${name}=${value}`),
        url.href,
      ],
      { env: { PATH: process.env.PATH, PGPASSWORD }, input: script },
    );
    const [, steps, stepsPerSecond] = /actually processed: (\d+)[^]*tps = ([\d.]+)/.exec(printed) ?? [];
    return { steps: Number(steps), stepsPerSecond: Number(stepsPerSecond) };
  }
}

/** One step of one agent. */
function scriptOf(shape: Shape, steps: number): string {
  const sql = stepSql(shape, ':step::int');
  const thread = `md5(concat(:run::text, '-', :client_id::text, '-', :thread::text))::uuid::text`;
  const indexes = (count: number) => Array.from({ length: count }, (_, i) => String(i));
  const statements = [
    putSql(
      [
        ...[thread, `''`, sql.checkpointId, sql.parentCheckpointId],
        ...[sql.checkpoint(':template::text'), sql.metadata(':metadata::text')],
      ],
      indexes(shape.freshChannels).map((i) => [
        ...[thread, `''`, sql.channel(i), sql.version, `'${TYPE}'`, ':blob::bytea'],
      ]),
    ),
    ...indexes(shape.tasks).map((task) =>
      putWritesSql(
        indexes(WRITES_PER_TASK).map((i) => [
          ...[thread, `''`, sql.checkpointId, sql.taskId(task), i, `'channel-${i}'`],
          ...[`'${TYPE}'`, ':write::bytea', `'~__pregel_pull, model'`],
        ]),
        false,
      ),
    ),
    getTupleSql(thread, `''`, null),
  ];
  const settings = ['\\set n :n + 1', `\\set step :n % ${steps}`, `\\set thread :n / ${steps}`];
  return [...settings, ...statements.map((statement) => `${statement};`)].join('\n');
}
