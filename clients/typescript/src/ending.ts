import { onAbort } from './abort.js';

/** Tells when a call or an attempt has to end early. An AbortController would cost a tenth of a whole request. */
export class Ending {
  isOver = false;
  reason: unknown;
  private readonly callbacks = new Set<() => void>();

  end(reason: unknown): void {
    if (this.isOver) return;
    this.isOver = true;
    this.reason = reason;
    for (const callback of this.callbacks) callback();
  }

  /**
   * Calls back at the end, at once when it has come already.
   * @returns what makes it not call back
   */
  onEnd(callback: () => void): () => void {
    if (this.isOver) callback();
    else this.callbacks.add(callback);
    return () => {
      this.callbacks.delete(callback);
    };
  }

  /** @throws the reason when the end has come */
  throwIfOver(): void {
    if (this.isOver) throw this.reason;
  }
}

/** Ends so many milliseconds after the signal was aborted, with its reason. */
export function endingAfter(signal: AbortSignal, ms: number): { ending: Ending; dispose: () => void } {
  const ending = new Ending();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = () => {
    ending.end(signal.reason);
  };
  const forget = onAbort(signal, () => {
    if (ms > 0) timer = setTimeout(end, ms);
    else end();
  });
  const dispose = () => {
    clearTimeout(timer);
    forget();
  };
  return { ending, dispose };
}
