import { createHash, randomBytes } from 'node:crypto';

/** Content names its owner every so many bytes, so that a piece of it is recognised wherever it turns up. */
const BLOCK = 512;
/** What fills the blocks: it does not compress, and no two runs share it. */
const FILLING = randomBytes(64 * BLOCK);

/**
 * What is stored under a label, which is `tenant/thread/what`: the same bytes each time, and other ones for each label.
 * Nothing is kept; content is made again to compare it.
 */
export function contentOf(label: string, bytes: number): Buffer {
  const version = VERSION.exec(label);
  if (version !== null) return versionOf(version[1] ?? '', Number(version[2]), label, bytes);
  const content = Buffer.allocUnsafe(bytes);
  const start = createHash('sha256').update(label).digest().readUInt32LE() % (FILLING.length - BLOCK);
  for (let at = 0; at < bytes; at += BLOCK) {
    FILLING.copy(content, at, (start + 7 * at) % (FILLING.length - BLOCK));
    content.write(`<<${label}@${at}>>`, at, 'latin1');
  }
  return content;
}

/** The n-th value of a channel that goes on from the one before, as a conversation does. */
const VERSION = /^(.*\/messages) (\d+)$/;

/** What all versions have in common, behind a head and with a block of its own. */
function versionOf(channel: string, n: number, label: string, bytes: number): Buffer {
  const content = contentOf(channel, bytes);
  const head = Buffer.from(`<<${label}@0>>`);
  head.copy(content, 0, 0, Math.min(head.length, bytes));
  const edited = ((n * 7919) % Math.ceil(bytes / BLOCK)) * BLOCK;
  if (n % 3 === 0 && edited + BLOCK <= bytes) content.write(`<<${label}@${edited}>>`, edited, 'latin1');
  return content;
}

/** Text of the same kind, for documents. */
export function textOf(label: string, bytes: number): string {
  return `<<${label}@0>>`.repeat(Math.ceil(bytes / (label.length + 6))).slice(0, bytes);
}

/** Null when the bytes are those that the label stands for, else what they are. */
export function differenceOf(found: Buffer, label: string, bytes: number): string | null {
  const wanted = contentOf(label, bytes);
  if (found.equals(wanted)) return null;
  let at = 0;
  while (at < bytes && at < found.length && found[at] === wanted[at]) at += 1;
  return `${found.length} bytes for ${bytes} of ${label}, other ones from ${at} on; ${ownersIn(found)}`;
}

/** Whose content it is, as far as it says so. */
export function ownersIn(bytes: Buffer | string): string {
  const text = typeof bytes === 'string' ? bytes : bytes.toString('latin1');
  const labels = new Set([...text.matchAll(/<<([^<>@]{1,200})@\d+>>/g)].map(([, label]) => label));
  return labels.size === 0 ? 'of nobody' : `of ${[...labels].slice(0, 4).join(', ')}`;
}

/** The tenants whose content it holds. */
export function tenantsIn(bytes: Buffer | string): Set<string> {
  const text = typeof bytes === 'string' ? bytes : bytes.toString('latin1');
  return new Set([...text.matchAll(/<<([a-z]+)\/[^<>@]{1,200}@\d+>>/g)].map(([, tenant]) => tenant ?? ''));
}
