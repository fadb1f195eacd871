import { nodeModules } from './node-modules.js';

/** Undefined where the runtime has no gzip. */
export function gzipped(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> | undefined {
  const zlib = nodeModules()?.('node:zlib');
  if (zlib !== undefined) {
    return new Promise((resolve, reject) => {
      zlib.gzip(bytes, (error, zipped) => {
        if (error === null) resolve(zipped);
        else reject(error);
      });
    });
  }
  return typeof CompressionStream === 'undefined' ? undefined : gzippedByStream(bytes);
}

type Transformation = { readable: ReadableStream; writable: WritableStream };

/** For runtimes without Node's zlib. */
export async function gzippedByStream(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const gzip: Transformation = new CompressionStream('gzip');
  return new Uint8Array(
    await new Response(new Blob([bytes]).stream().pipeThrough(gzip) as ReadableStream).arrayBuffer(),
  );
}
