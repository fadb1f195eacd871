/** The callbacks that wait for a signal, behind the one listener that it has. */
class Waiting {
  readonly callbacks = new Set<() => void>();
  private readonly signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.signal = signal;
    signal.addEventListener('abort', this.tell);
  }

  remove(callback: () => void): void {
    if (this.callbacks.delete(callback) && this.callbacks.size === 0) this.end();
  }

  private readonly tell = () => {
    this.end();
    for (const callback of this.callbacks) callback();
  };

  private end(): void {
    this.signal.removeEventListener('abort', this.tell);
    waitingFor.delete(this.signal);
  }
}

const waitingFor = new WeakMap<AbortSignal, Waiting>();

/**
 * Calls back once the signal is aborted, at once when it is already. However many calls wait for a signal, it has one listener:
 * Node warns of a leak from the eleventh on, and all runs of a graph may share a signal.
 * @returns what makes it not call back
 */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined) return () => undefined;
  if (signal.aborted) {
    callback();
    return () => undefined;
  }
  let waiting = waitingFor.get(signal);
  if (waiting === undefined) {
    waiting = new Waiting(signal);
    waitingFor.set(signal, waiting);
  }
  waiting.callbacks.add(callback);
  return () => {
    waiting.remove(callback);
  };
}
