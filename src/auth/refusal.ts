/** Why nobody is known by a credential, and as far as it is known whose it is. For the log; callers are not told. */
export interface Refusal {
  refused: string;
  key?: string;
}
