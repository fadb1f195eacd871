import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';

/** Mulberry32: the same inputs for the same seed. */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const OPERATIONS = {
  put: `{"thread_id":"t","checkpoint_ns":"","checkpoint_id":"1","parent_checkpoint_id":null,"checkpoint":{"v":4,"channel_versions":{"a":"1.0"},"channel_values":{"a":[1.5,null,true,"\\u00e9"]}},"metadata":{"step":-1,"source":"input"},"blobs":[{"channel":"a","version":1.0,"type":"msgpack","blob":"aGVsbG8="}]}`,
  'put-writes': `{"thread_id":"t","checkpoint_ns":"","checkpoint_id":"1","writes":[{"task_id":"k","idx":-1,"channel":"a","type":"msgpack","blob":"aGk=","task_path":""}],"upsert":true}`,
  batch: `{"operation":"put"}\n{"thread_id":"t","checkpoint_id":"2","checkpoint":{"v":4}}\n{"operation":"put-writes"}\n{"thread_id":"t","checkpoint_id":"2","writes":[]}\n`,
  'get-tuple': `{"thread_id":"t","checkpoint_ns":"","checkpoint_id":null,"include":["blobs","pending_sends"]}`,
  list: `{"thread_id":"t","before_checkpoint_id":"9","filter_metadata":{"step":-1},"limit":3,"include":["pending_writes"]}`,
  'delete-thread': `{"thread_id":"t"}`,
  'copy-thread': `{"source_thread_id":"t","target_thread_id":"u"}`,
  'delete-for-runs': `{"run_ids":["a","b"]}`,
  prune: `{"thread_ids":["t","u"],"strategy":"keep_latest"}`,
  'delta-channel-history': `{"thread_id":"t","checkpoint_ns":"","checkpoint_id":null,"channels":["a","b"]}`,
};

const ODD = [
  ...[
    'null',
    'true',
    '-0.0',
    '1e400',
    '-1e-400',
    '1E+2',
    '0x10',
    'NaN',
    '01',
    '2147483648',
    '9007199254740993',
  ],
  ...[
    '""',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"__proto__"',
    '"\\x"',
    '"a\nb"',
    '[]',
    '{}',
    '[[]]',
    '[null]',
  ],
  ...[
    '{"__proto__":{"a":1}}',
    '{"a":1,"a":2}',
    '{"constructor":{"prototype":1}}',
    '"="',
    '"===="',
    '"aGk"',
    '"aG k="',
    '"_-=="',
  ],
  ...[
    '"\u{1f600}"',
    `"${'é'.repeat(1301)}"`,
    `"${'k'.repeat(2601)}"`,
    '"WyJhIiwiYiIsImMiXQ"',
    '"\'; drop table checkpoints; --"',
  ],
];

/** Endless: `{kind, bytes}`, the bytes of a whole request. */
export function* inputs(seed) {
  bomb();
  const next = random(seed);
  const below = (limit) => Math.floor(next() * limit);
  const pick = (items) => items[below(items.length)];
  const names = Object.keys(OPERATIONS);

  const mutated = (bytes) => {
    let result = Buffer.from(bytes);
    for (let times = 1 + below(4); times > 0; times -= 1) {
      const at = below(result.length + 1);
      const [before, after] = [result.subarray(0, at), result.subarray(at)];
      switch (below(5)) {
        case 0:
          result = Buffer.concat([before, after.subarray(1 + below(3))]);
          break;
        case 1:
          result = Buffer.concat([before, Buffer.from([below(256)]), after.subarray(1)]);
          break;
        case 2:
          result = Buffer.concat([
            before,
            Buffer.from(pick([...ODD, '"', '{', '[', ',', ':', '\\', '\0', '\ufeff'])),
            after,
          ]);
          break;
        case 3:
          result = Buffer.concat([before, before.subarray(below(at + 1)), after]);
          break;
        default:
          result = Buffer.from(before);
      }
    }
    return result;
  };
  /** One of the values of a valid request is another one. */
  const odd = (text) => {
    const values = [...text.matchAll(/(?<=[:[,])("(?:[^"\\]|\\.)*"(?!:)|-?\d[\d.]*|null|true|\{\}|\[\])/g)];
    if (values.length === 0) return text; // its only value is odd already
    const { 0: value, index } = pick(values);
    return text.slice(0, index) + pick(ODD) + text.slice(index + value.length);
  };
  const request = (operation, body, headers = []) => {
    const lines = [`POST /checkpoints/${operation} HTTP/1.1`, 'Host: fuzz', 'Connection: close'];
    const type = operation === 'batch' ? 'application/x-ndjson' : 'application/json';
    const all = [...lines, `Content-Type: ${type}`, `Content-Length: ${body.length}`, ...headers];
    return Buffer.concat([Buffer.from(`${all.join('\r\n')}\r\n\r\n`), body]);
  };
  const into = (operation, name, value) => {
    const text = OPERATIONS[operation];
    const at = text.indexOf(`"${name}":`);
    return `${text.slice(0, at)}"${name}":${value},"x":${text.slice(at + name.length + 3)}`;
  };
  const document = (value) =>
    pick([
      () => ['put', into('put', pick(['checkpoint', 'metadata', 'blobs', 'thread_id', 'unknown']), value)],
      () => ['list', into('list', pick(['filter_metadata', 'limit', 'include', 'cursor']), value)],
      () => ['put-writes', into('put-writes', pick(['writes', 'upsert', 'checkpoint_ns']), value)],
      () => ['prune', into('prune', pick(['thread_ids', 'strategy']), value)],
    ])();

  const KINDS = {
    'broken JSON': () => {
      const name = pick(names);
      return request(name, mutated(OPERATIONS[name]));
    },
    'odd values': () => {
      const name = pick(names);
      return request(name, Buffer.from(next() < 0.5 ? odd(OPERATIONS[name]) : odd(odd(OPERATIONS[name]))));
    },
    'broken UTF-8': () => {
      const name = pick(names);
      const body = Buffer.from(OPERATIONS[name]);
      const at = below(body.length);
      const bytes = pick([
        [0xff],
        [0xc3],
        [0xed, 0xa0, 0x80],
        [0xf4, 0x90, 0x80, 0x80],
        [0xc0, 0x80],
        [0xef, 0xbb, 0xbf],
      ]);
      return request(name, Buffer.concat([body.subarray(0, at), Buffer.from(bytes), body.subarray(at)]));
    },
    Base64: () => {
      const length = pick([1, 5, 100, 70_000, 400_000]) + below(5);
      const text = Buffer.alloc(length, below(256)).toString(pick(['base64', 'base64url', 'hex', 'latin1']));
      const blob = JSON.stringify(
        next() < 0.5
          ? text
          : `${text.slice(0, below(text.length))}${pick(['=', '-', ' ', '\n', 'é', '"'])}${text}`,
      );
      const name = pick(['put', 'put-writes']);
      return request(name, Buffer.from(OPERATIONS[name].replace(/"blob":"[^"]*"/, () => `"blob":${blob}`)));
    },
    'large blobs in odd places': () => {
      const blob = `"blob":"${Buffer.alloc(200_000, below(256)).toString('base64')}"`;
      const places = [
        OPERATIONS.put.replace('"metadata":{', () => `"metadata":{${blob},`),
        OPERATIONS.put.replace('"thread_id"', () => `${blob},"thread_id"`),
        OPERATIONS.put.replace('"channel"', () => `${blob},"channel"`),
        OPERATIONS.put.replace('"blobs":[', () => `"blobs":[{${blob}},{${blob},${blob}},`),
        `{${blob}}`,
        `[{${blob}}]`,
        `{${blob}`,
      ];
      return request('put', Buffer.from(pick(places)));
    },
    compression: () => {
      const name = pick(names);
      const [encoding, compress] = pick([
        ['gzip', gzipSync],
        ['deflate', deflateSync],
        ['br', brotliCompressSync],
      ]);
      const body = compress(pick([OPERATIONS[name], mutated(OPERATIONS[name]), '']));
      const sent = pick([
        body,
        mutated(body),
        body.subarray(0, below(body.length)),
        Buffer.concat([body, body]),
      ]);
      return request(name, sent, [
        `Content-Encoding: ${pick([encoding, encoding, 'gzip', 'zstd', 'gzip, gzip', 'IDENTITY'])}`,
      ]);
    },
    'a bomb': () => request('put', bomb(), ['Content-Encoding: gzip']),
    'deep nesting': () => {
      const depth = pick([10, 1000, 100_000, 1_000_000]);
      const [open, close] = pick([
        ['[', ']'],
        ['{"a":', '}'],
      ]);
      const inside =
        open.repeat(depth) +
        (open === '[' ? '' : '1') +
        pick([close.repeat(depth), '', close.repeat(depth - 1)]);
      const [name, text] = document(inside);
      return request(name, Buffer.from(pick([text, text, inside])));
    },
    '10^5 keys': () => {
      const same = next() < 0.3;
      const keys = Array.from({ length: 100_000 }, (_, n) => `"${same ? 'k' : `k${n}`}":${n}`).join();
      const [name, text] = document(pick([`{${keys}}`, `[${Array(100_000).fill('{}').join()}]`]));
      return request(name, Buffer.from(next() < 0.3 ? `{${keys},${text.slice(1)}` : text));
    },
    'enormous numbers': () => {
      const digits = pick([300, 5000, 131_073, 1_000_000]);
      const number = pick([
        `${'9'.repeat(digits)}`,
        `-0.${'0'.repeat(digits)}1`,
        `1e${digits}`,
        `1e-${digits}`,
        `1e${'9'.repeat(30)}`,
      ]);
      const [name, text] = document(pick([number, `{"n":${number}}`, `[${number}]`]));
      return request(name, Buffer.from(text));
    },
    'a number as a version': () => {
      const number = pick([
        '1e-16383',
        '1e131071',
        '1e131072',
        '1e999999999',
        `0.${'1'.repeat(17_000)}`,
        '-0',
        '1E5',
      ]);
      return request('put', Buffer.from(OPERATIONS.put.replace('"version":1.0', `"version":${number}`)));
    },
    headers: () => {
      const body = Buffer.from(OPERATIONS.list);
      const header = pick([
        'Content-Type: text/plain',
        'Content-Type: application/json; charset=latin1',
        'Content-Length: 5',
        'Content-Length: -1',
        'Transfer-Encoding: chunked',
        'Transfer-Encoding: gzip',
        'Expect: 100-continue',
        'Expect: something',
        'Accept-Encoding: br;q=x, *;q=0',
        `X-Request-Id: ${'x'.repeat(1000)}`,
        `X-Large: ${'x'.repeat(pick([8000, 20_000, 200_000]))}`,
        ...[Array.from({ length: 3000 }, (_, n) => `X-${n}: ${n}`).join('\r\n')],
      ]);
      const [first, ...rest] = pick([request('list', body, [header]), mutated(request('list', body))])
        .toString('latin1')
        .split('\r\n');
      return Buffer.from([first, header, ...rest].join('\r\n'), 'latin1');
    },
    'raw bytes': () => {
      const noise = Buffer.from(Array.from({ length: 1 + below(400) }, () => below(256)));
      return pick([
        noise,
        Buffer.concat([Buffer.from('POST /checkpoints/put HTTP/1.1\r\n'), noise, Buffer.from('\r\n\r\n')]),
        Buffer.from(
          `${pick(['GET', 'PUT', 'POST', 'TRACE', 'X'])} ${pick(['/', '/checkpoints/put?a=%', '/%ff', '//', '*', '/checkpoints/../put', '/docs', '/openapi.json'])} HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n`,
        ),
      ]);
    },
  };
  // Large ones are rarer, so that they are not all that there is time for.
  const RARE = new Set([
    'a bomb',
    'deep nesting',
    '10^5 keys',
    'enormous numbers',
    'large blobs in odd places',
  ]);
  const often = Object.keys(KINDS).filter((kind) => !RARE.has(kind));
  for (let n = 0; ; n += 1) {
    const kind = n % 10 === 9 ? pick([...RARE]) : pick(often);
    yield { kind, bytes: KINDS[kind]() };
  }
}

let bombed;
/** Some 250 KB that inflate to 256 MiB. */
function bomb() {
  bombed ??= gzipSync(Buffer.concat([Buffer.from('{"a":"'), Buffer.alloc(256 * 1024 ** 2, 97)]));
  return bombed;
}
