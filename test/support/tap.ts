import net from 'node:net';

/** What Postgres is asked, read on its way: the SQL of every simple query and of every statement that is parsed. */
export async function aTap(target: URL) {
  const statements: string[] = [];
  const server = net.createServer((incoming) => {
    const outgoing = net.connect(Number(target.port), target.hostname);
    for (const socket of [incoming, outgoing]) socket.on('error', () => undefined);
    incoming.pipe(outgoing).pipe(incoming);
    let started = false;
    let rest = Buffer.alloc(0);
    incoming.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      for (;;) {
        // The first message has no type.
        const head = started ? 1 : 0;
        if (rest.length < head + 4 || rest.length < head + rest.readUInt32BE(head)) return;
        const type = started ? String.fromCharCode(rest[0] ?? 0) : '';
        const [end, parts] = [head + rest.readUInt32BE(head), rest.toString('utf8', head + 4).split('\0')];
        if (type === 'Q') statements.push(parts[0] ?? '');
        if (type === 'P') statements.push(parts[1] ?? '');
        rest = rest.subarray(end);
        started = true;
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = Object.assign(new URL(target), {
    hostname: '127.0.0.1',
    port: String((server.address() as net.AddressInfo).port),
  });
  return { url: url.href, statements, close: () => server.close() };
}
