import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { freePort } from '../../src/database/embedded/embedded-postgres.js';
import { Network } from '../support/network.js';
import { storeKey } from './key.js';
import { Postgres } from './postgres.js';
import { killServices, Service } from './service.js';

export const DATABASE = 'faults';
/** The role of the service: no superuser, so that what is kept for those does not help it. */
export const ROLE = 'agents';

/** What a run is made of: a server, the network before it, and instances of the service. */
export class World {
  readonly instances: Service[] = [];
  /** Those that a load balancer sends requests to. */
  routed: Service[] = [];
  private readonly polling: NodeJS.Timeout;
  private readonly servers = new Set<Postgres>();

  private constructor(
    private readonly directory: string,
    readonly logFile: string,
    public postgres: Postgres,
    readonly network: Network,
  ) {
    this.servers.add(postgres);
    this.polling = setInterval(() => void this.balance(), 100);
  }

  static async create(): Promise<World> {
    const directory = mkdtempSync(join(tmpdir(), 'checkpoint-backend-faults-'));
    chmodSync(directory, 0o755); // root's Postgres runs as another user
    const postgres = await Postgres.start(join(directory, 'primary'));
    await postgres.sql(`create role ${ROLE} login password 'agents'`);
    await postgres.sql(`create database ${DATABASE} owner ${ROLE}`);
    mkdirSync(resolve('dist/test'), { recursive: true });
    const logFile = resolve('dist/test/faults.log');
    rmSync(logFile, { force: true });
    return new World(directory, logFile, postgres, await Network.open(postgres.port));
  }

  /** Sends requests to instances that say that they are ready; when none does, to those that run. */
  private async balance(): Promise<void> {
    const ready = await Promise.all(this.instances.map((instance) => instance.isReady()));
    const routed = this.instances.filter((_, n) => ready[n]);
    if (routed.length > 0) this.routed = routed;
  }

  readonly route = (agent = 0): string => {
    const { routed } = this;
    return (routed[agent % routed.length] ?? this.instances[0])?.url ?? '';
  };

  /** An instance on the server behind the network; with a role of its own when a test is about that. */
  async newInstance(environment: Record<string, string> = {}): Promise<Service> {
    const service = new Service(
      await freePort(),
      {
        DATABASE_URL: this.urlFor(ROLE),
        // Longer than the balancer below may need to hear of it on a busy machine.
        SHUTDOWN_DELAY_MS: '3000',
        SWAGGER_ENABLED: 'false',
        BLOB_STORAGE: process.env.BLOB_STORAGE ?? 'whole',
        ...environment,
      },
      this.logFile,
    );
    await service.start();
    await storeKey(this.postgres, DATABASE);
    return service;
  }

  private urlFor(role: string): string {
    return `postgresql://${role}:agents@127.0.0.1:${this.network.port}/${DATABASE}`;
  }

  /** Makes a directory that the server can write to. */
  directoryForPostgres(name: string): string {
    const path = join(this.directory, name);
    mkdirSync(path, { recursive: true });
    chownSync(path, this.postgres.owner.uid, this.postgres.owner.gid);
    return path;
  }

  async standby(): Promise<Postgres> {
    const dataDir = this.directoryForPostgres('standby');
    const standby = await this.postgres.standby(dataDir);
    this.servers.add(standby);
    return standby;
  }

  async end(): Promise<void> {
    clearInterval(this.polling);
    killServices();
    this.network.close();
    for (const server of this.servers) await server.end();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
