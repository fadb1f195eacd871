import type { DocumentFault, JsonText } from '../../http/exact-json/exact-json.js';
import { LimitExceededError, UnstorableDocumentError } from '../../errors/errors.js';

/** The text of a document that is to be stored or compared as jsonb. @throws LimitExceededError, UnstorableDocumentError */
export function documentText(member: string, { text, fault }: JsonText): string {
  if (fault !== null) throw refusalOf(member, fault);
  return text;
}

function refusalOf(member: string, fault: DocumentFault): Error {
  if ('setting' in fault) return new LimitExceededError(fault.what, fault.setting, fault.limit);
  const { detail } = fault;
  return new UnstorableDocumentError(`${member} ${detail}`, { fault: { pointer: `#/${member}`, detail } });
}
