import { nodeModules } from './node-modules.js';

/**
 * Most of a large body is Base64. Of bytes that do not compress, gzip takes back no more than what Base64 had added (a quarter), at a
 * price in time that a network rarely asks; of text it takes away more, which a sample tells.
 */
const SAMPLE_BYTES = 16 * 1024;
const MAX_RATIO = 0.7;
/** Of text as Base64 the usual 6 takes twice as long, for a tenth less. */
const LEVEL = 1;

/** Undefined where it does not pay, and where the runtime has no gzip. */
export function gzipped(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> | undefined {
  const zlib = nodeModules()?.('node:zlib');
  if (zlib !== undefined) {
    const middle = Math.max(0, (bytes.length - SAMPLE_BYTES) >> 1);
    const sample = bytes.subarray(middle, middle + SAMPLE_BYTES);
    if (zlib.deflateRawSync(sample, { level: LEVEL }).length > MAX_RATIO * sample.length) return undefined;
    return new Promise((resolve, reject) => {
      zlib.gzip(bytes, { level: LEVEL }, (error, zipped) => {
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
