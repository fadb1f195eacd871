import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** What a part cost; null where the process is not on this machine, or the system has no /proc. */
export interface Cost {
  serviceCpuUs: number | null;
  postgresCpuUs: number | null;
  /** Of the service at the end of the part, and the most since its start. */
  residentBytes: number | null;
  peakBytes: number | null;
  /** Of all the machine's CPU time, what the hypervisor gave to others: 0 to 1. */
  steal: number | null;
}

const HAS_PROC = existsSync('/proc/self/stat');
const TICKS_PER_SECOND = HAS_PROC ? Number(execFileSync('getconf', ['CLK_TCK'])) : 100;

/** Reads the meters at the begin of a part; `cost` reads them again. Pids are null for what cannot be measured. */
export class Meter {
  private readonly begin: Reading;

  constructor(
    private readonly service: number | null,
    private readonly postmaster: number | null,
  ) {
    this.begin = this.read();
  }

  cost(): Cost {
    const end = this.read();
    const between = (key: 'service' | 'postgres') => {
      const [from, to] = [this.begin[key], end[key]];
      return from === null || to === null ? null : ((to - from) * 1e6) / TICKS_PER_SECOND;
    };
    const all = end.machine.all - this.begin.machine.all;
    return {
      serviceCpuUs: between('service'),
      postgresCpuUs: between('postgres'),
      residentBytes: statusBytes(this.service, 'VmRSS'),
      peakBytes: statusBytes(this.service, 'VmHWM'),
      steal: all > 0 ? (end.machine.stolen - this.begin.machine.stolen) / all : null,
    };
  }

  private read(): Reading {
    const processes = HAS_PROC ? allProcesses() : [];
    return {
      service: treeTicks(processes, this.service),
      postgres: treeTicks(processes, this.postmaster),
      machine: machineTicks(),
    };
  }
}

/** CPU time in ticks. */
interface Reading {
  service: number | null;
  postgres: number | null;
  machine: { all: number; stolen: number };
}

interface Process {
  pid: number;
  parent: number;
  /** Of itself, and of its children that have ended. */
  ticks: number;
}

function allProcesses(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        // After the name, which may hold spaces: state, parent, …, utime, stime, cutime, cstime.
        const fields = readFileSync(`/proc/${name}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
        const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
        return [{ pid: Number(name), parent: Number(fields[1]), ticks }];
      } catch {
        return []; // it has just ended
      }
    });
}

/** CPU time of a process and all below it. */
function treeTicks(processes: Process[], root: number | null): number | null {
  const self = processes.find(({ pid }) => pid === root);
  if (self === undefined) return null;
  const children = processes.filter(({ parent }) => parent === root);
  return children.reduce((sum, { pid }) => sum + (treeTicks(processes, pid) ?? 0), self.ticks);
}

function machineTicks(): { all: number; stolen: number } {
  if (!HAS_PROC) return { all: 0, stolen: 0 };
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  // user nice system idle iowait irq softirq steal; guest times are part of user.
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  return { all: ticks.reduce((sum, value) => sum + value, 0), stolen: ticks[7] ?? 0 };
}

function statusBytes(pid: number | null, field: string): number | null {
  if (pid === null || !HAS_PROC) return null;
  const [, kilobytes] =
    new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return kilobytes === undefined ? null : Number(kilobytes) * 1024;
}

/** The server that a session belongs to, when it runs on this machine. */
export function postmasterOf(backendPid: number): number | null {
  if (!HAS_PROC) return null;
  const backend = allProcesses().find(({ pid }) => pid === backendPid);
  const isPostgres = backend && readFileSync(`/proc/${backendPid}/comm`, 'utf8').startsWith('postgres');
  return isPostgres ? backend.parent : null;
}
