import { readFileSync, writeFileSync } from 'node:fs';

const SAMPLE_MS = 10;
/** Below it the machine is in danger, and the run ends what takes the memory. */
const MIN_AVAILABLE_BYTES = 3 * 2 ** 30;

export interface Peak {
  /** Resident memory of the service: before, and the most. */
  serviceBefore: number;
  service: number;
  /** The most that one Postgres process had to itself, and that all of them had together. */
  oneBackend: number;
  allBackends: number;
  /** The machine ran out of memory, and the processes of the run were ended. */
  isStopped: boolean;
}

/** Follows the memory of the service and of Postgres's processes while requests are under way. Linux only. */
export class MemoryWatch {
  private readonly timer: NodeJS.Timeout;
  private readonly highest = new Map<number, number>();
  private allBackends = 0;
  private isStopped = false;
  private readonly before: number;

  constructor(
    private readonly service: number,
    private readonly postmaster: number,
  ) {
    reset(service);
    for (const pid of childrenOf(postmaster)) reset(pid);
    this.before = bytesOf(service, 'VmRSS');
    this.timer = setInterval(() => {
      this.sample();
    }, SAMPLE_MS);
  }

  end(): Peak {
    clearInterval(this.timer);
    this.sample();
    // What is shared grows only, so the peak without it is at least this.
    for (const pid of childrenOf(this.postmaster)) {
      this.note(pid, bytesOf(pid, 'VmHWM') - bytesOf(pid, 'RssShmem') - bytesOf(pid, 'RssFile'));
    }
    return {
      serviceBefore: this.before,
      service: bytesOf(this.service, 'VmHWM'),
      oneBackend: Math.max(0, ...this.highest.values()),
      allBackends: this.allBackends,
      isStopped: this.isStopped,
    };
  }

  private sample(): void {
    let all = 0;
    for (const pid of childrenOf(this.postmaster)) {
      const own = bytesOf(pid, 'RssAnon');
      this.note(pid, own);
      all += own;
    }
    this.allBackends = Math.max(this.allBackends, all);
    const [, available = '0'] = /MemAvailable:\s+(\d+) kB/.exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
    if (Number(available) * 1024 > MIN_AVAILABLE_BYTES || this.isStopped) return;
    this.isStopped = true;
    // A backend that dies makes the server start anew, and lets go of the others.
    const [largest] = [...this.highest].sort(([, a], [, b]) => b - a);
    for (const pid of [largest?.[0], this.service]) if (pid !== undefined) kill(pid);
  }

  private note(pid: number, bytes: number): void {
    this.highest.set(pid, Math.max(this.highest.get(pid) ?? 0, bytes));
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has just ended.
  }
}

/** Lets VmHWM begin anew. */
function reset(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5');
  } catch {
    // It has just ended.
  }
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return text.split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function bytesOf(pid: number, field: string): number {
  try {
    const [, kilobytes = '0'] =
      new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return Number(kilobytes) * 1024;
  } catch {
    return 0;
  }
}
