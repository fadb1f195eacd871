import net from 'node:net';

// Longer than any answer is waited for (ANSWER_MS in fuzz.mjs), also on a busy machine.
const SILENCE_MS = 60_000;

/** Sends the bytes as they are; resolves with the status of the first answer, 0 when the connection was closed without one. */
export function send(url, bytes) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    let head = '';
    const socket = net.connect(Number(port), hostname);
    const done = (outcome) => {
      socket.destroy();
      resolve(outcome);
    };
    socket.setTimeout(SILENCE_MS, () => {
      done('nothing');
    });
    socket.on('data', (chunk) => {
      if (head.length < 200) head += chunk.toString('latin1', 0, 200);
      if (head.startsWith('HTTP/1.1 100 ')) head = head.slice(head.indexOf('\r\n\r\n') + 4);
      const status = /^HTTP\/1\.1 (\d{3})/.exec(head)?.[1];
      if (status !== undefined) done(Number(status));
    });
    socket.on('error', () => {
      done(0);
    });
    socket.on('close', () => {
      done(0);
    });
    socket.write(bytes);
  });
}
