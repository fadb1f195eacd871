/** Characters that one call of String.fromCharCode takes safely. */
const CHUNK = 0x8000;

/** Standard Base64 with padding. */
export function toBase64(bytes: Uint8Array): string {
  if (typeof Buffer === 'undefined') return toBase64WithoutBuffer(bytes);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}

export function fromBase64(text: string): Uint8Array {
  if (typeof Buffer === 'undefined') return fromBase64WithoutBuffer(text);
  // A copy: short Buffers are views of a pool, and some serialisers look at the whole of `.buffer`.
  return Uint8Array.from(Buffer.from(text, 'base64'));
}

/** For runtimes without Node's Buffer. */
export function toBase64WithoutBuffer(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += CHUNK) {
    text += String.fromCharCode(...bytes.subarray(at, at + CHUNK));
  }
  return btoa(text);
}

/** For runtimes without Node's Buffer. */
export function fromBase64WithoutBuffer(text: string): Uint8Array {
  const binary = atob(text);
  return Uint8Array.from({ length: binary.length }, (_, at) => binary.charCodeAt(at));
}
