import type { WireTuple } from './wire.js';

/** As Python's Postgres savers count: 32 digits, a dot, and a fraction. LangGraph.js counts in numbers. */
const PYTHON_VERSION = /^\d{32}\./;
/** What LangGraph's serializer of Python writes, and none of JavaScript does. */
const PYTHON_TYPE = /^(msgpack|pickle|null|bytearray)\b/;

/** A thread of a Python agent. What it holds is in no form that JavaScript reads, or not where LangGraph.js keeps it. */
export class OtherLanguageError extends Error {
  override readonly name = 'OtherLanguageError';

  constructor(threadId: string | undefined, sign: string, options?: ErrorOptions) {
    const thread = threadId === undefined ? 'The thread' : `The thread ${JSON.stringify(threadId)}`;
    super(
      `${thread} was written by an agent in Python: ${sign}. An agent in JavaScript cannot continue it; use another thread_id`,
      options,
    );
  }
}

/**
 * Python's savers keep texts, numbers and the like inside the checkpoint, where LangGraph.js does not look. Read as ever, such a
 * thread would be empty, and begun anew behind the back of its owner.
 * @throws OtherLanguageError when the checkpoint was written in Python
 */
export function refuseOtherLanguage({ thread_id: threadId, checkpoint }: WireTuple): void {
  const [channel] = Object.keys(objectOf(checkpoint.channel_values));
  if (channel !== undefined) {
    throw new OtherLanguageError(threadId, `the channel ${JSON.stringify(channel)} is inside the checkpoint`);
  }
  const versions = Object.entries(objectOf(checkpoint.channel_versions));
  const counted = versions.find(([, version]) => typeof version === 'string' && PYTHON_VERSION.test(version));
  if (counted !== undefined) {
    throw new OtherLanguageError(
      threadId,
      `the channel ${JSON.stringify(counted[0])} has a version of Python`,
    );
  }
}

export function isOfPython(type: string): boolean {
  return PYTHON_TYPE.test(type);
}

function objectOf(value: unknown): object {
  return typeof value === 'object' && value !== null ? value : {};
}
