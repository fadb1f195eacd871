import { once } from 'node:events';
import net from 'node:net';

export interface LossyNetwork {
  /** The database, through it. */
  url: string;
  /** How many answers it has lost. */
  readonly lost: number;
  /** The next message to Postgres that holds the text arrives and is carried out, and its connection ends unanswered. */
  loseAnswerTo: (text: string) => void;
  close: () => Promise<void>;
}

export async function startLossyNetwork(databaseUrl: string): Promise<LossyNetwork> {
  const target = new URL(databaseUrl);
  let lost = 0;
  let wanted: string | null = null;
  const server = net.createServer((near) => {
    const far = net.connect({ port: Number(target.port), host: target.hostname });
    let isDoomed = false;
    near.on('data', (bytes) => {
      if (wanted !== null && bytes.includes(wanted)) {
        wanted = null;
        isDoomed = true;
      }
      far.write(bytes);
    });
    far.on('data', (bytes) => {
      if (!isDoomed) {
        near.write(bytes);
        return;
      }
      lost += 1;
      near.destroy();
      far.destroy();
    });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => undefined);
      one.on('close', () => {
        other.destroy();
      });
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = Object.assign(new URL(databaseUrl), {
    hostname: '127.0.0.1',
    port: String((server.address() as net.AddressInfo).port),
  });
  return {
    url: url.href,
    get lost() {
      return lost;
    },
    loseAnswerTo: (text) => {
      wanted = text;
    },
    close: async () => {
      server.close();
      await once(server, 'close');
    },
  };
}
