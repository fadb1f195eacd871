/** Why no answer came. */
export interface NetworkFault {
  reason: string;
  /** What may help; undefined when nothing is known. */
  advice?: string | undefined;
  /** It will not pass by waiting. */
  isHopeless: boolean;
  /** The service may never have been there: its address is refused or unknown, or speaks something else. */
  isUnreachable: boolean;
}

/** By the codes of the system, of Node and of OpenSSL; the first that fits. */
const KNOWN: { codes: RegExp; advice: string; isHopeless?: true; isUnreachable?: true }[] = [
  {
    codes: /^(SELF_SIGNED|DEPTH_ZERO_SELF|UNABLE_TO_(GET_ISSUER|VERIFY_LEAF))/,
    advice: 'Add the authority of its certificate by NODE_EXTRA_CA_CERTS',
    isHopeless: true,
  },
  {
    codes: /CERT|SIGNATURE/,
    advice: 'Check the certificate of the service, and the name in baseUrl',
    isHopeless: true,
  },
  {
    codes: /^(ENOTFOUND|EAI_AGAIN)$/,
    advice: 'Check the host name in baseUrl, and the DNS',
    isUnreachable: true,
  },
  {
    codes: /^(ECONNREFUSED|EHOSTUNREACH|ENETUNREACH)$/,
    advice: 'Check that the service runs, and baseUrl',
    isUnreachable: true,
  },
  {
    codes: /^(ERR_SSL_|EPROTO$)/,
    advice: 'Check that the service has TLS, or begin baseUrl with http:',
    isUnreachable: true,
  },
  {
    codes: /^(HPE_|ERR_NOT_HTTP$)/,
    advice: 'Check that HTTP is spoken there, or begin baseUrl with https:',
    isUnreachable: true,
  },
];

export function networkFault(error: unknown): NetworkFault {
  const code = codeOf(error);
  const known = KNOWN.find(({ codes }) => codes.test(code));
  return {
    reason: reasonOf(error, code),
    advice: known?.advice,
    isHopeless: known?.isHopeless ?? false,
    isUnreachable: known?.isUnreachable ?? false,
  };
}

/** fetch says only "fetch failed"; its cause knows why. By shape, since errors may come from another realm. */
function reasonOf(error: unknown, code: string): string {
  const { message, cause, errors } = (error ?? {}) as {
    message?: unknown;
    cause?: { message?: unknown } | null;
    errors?: { message?: unknown }[];
  };
  const why = code || cause?.message;
  // Node tries every address of a name; the error about all of them has no message.
  const each = Array.isArray(errors) ? errors.map((one) => String(one.message)).join(', ') : '';
  // OpenSSL ends its messages with an empty line.
  const what = ([message, each].find(isWords) ?? String(error)).trim();
  return isWords(why) && !what.includes(why) ? `${what} (${why})` : what;
}

/** fetch has it in its cause. */
function codeOf(error: unknown): string {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: { code?: unknown } | null };
  return [cause?.code, code].find(isWords) ?? '';
}

function isWords(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}
